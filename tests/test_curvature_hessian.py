"""The Hessian operator against closed forms, dense autodiff and finite differences."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import (
    BIAS,
    EIGENVALUES,
    EIGENVALUES_WITH_BIAS,
    HESSIAN,
    INPUTS,
    PRODUCT_WITH_1_MINUS_2_3,
    TRACE,
    TRACE_WITH_BIAS,
    WEIGHTS,
    Counted,
    assert_trees_close,
    flops,
    logistic_batch,
    logistic_loss,
    logistic_loss_of_weights,
    logistic_params,
    mean_loss,
    mlp_batch,
    mlp_loss,
    mlp_params,
    on_two_devices,
    sigmoid,
    vector_like,
)
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from dpjax.curvature import Private, Public
from dpjax.curvature.hessian import hessian_operator
from dpjax.curvature.matrices import dense


def quadratic_loss(x, matrix):
    return x @ matrix @ x / 2


def rosenbrock(point, a, b):
    return (a - point[0]) ** 2 + b * (point[1] - point[0] ** 2) ** 2


def mlp_operator(batch=None, **options):
    batch = mlp_batch() if batch is None else batch
    return hessian_operator(mlp_loss, mlp_params(), Public(batch), **options)


def test_r1_the_hessian_of_quadratics_is_their_mean_matrix():
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        rotation = np.linalg.qr(random.normal(size=(5, 5)))[0]
        spectrum = np.array([10.0, 3.0, 1.0, -0.5, 0.0])
        matrix = rotation @ np.diag(spectrum) @ rotation.T
        batch = Public((jnp.stack([0.5 * matrix, 1.5 * matrix]),))
        matvec = hessian_operator(quadratic_loss, jnp.zeros(5), batch)
        vector = random.normal(size=5)
        np.testing.assert_allclose(matvec(vector), matrix @ vector, rtol=1e-13)
        values = np.linalg.eigvalsh(dense(matvec, vector).value)
        np.testing.assert_allclose(values, np.sort(spectrum), atol=1e-13)


def test_r3_rosenbrock_at_its_minimum():
    batch = Public((jnp.ones(1), jnp.full(1, 100.0)))
    matvec = hessian_operator(rosenbrock, jnp.ones(2), batch)
    hessian = dense(matvec, jnp.ones(2)).value
    np.testing.assert_allclose(hessian, [[802, -400], [-400, 200]], rtol=1e-6)
    # 501 +- sqrt(501^2 - 400): the trace is 1002, the determinant 400.
    np.testing.assert_allclose(
        np.linalg.eigvalsh(np.float64(hessian)), [0.3993607675, 1001.6006392325]
    )


def test_r4_linear_regression_has_a_constant_hessian():
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(7, 3))

        def loss(w, x, y):
            return (w @ x - y) ** 2

        batch = Public((jnp.asarray(x), jnp.ones(7)))
        hessian = dense(hessian_operator(loss, jnp.ones(3), batch), jnp.ones(3)).value
        np.testing.assert_allclose(hessian, 2 / 7 * x.T @ x, rtol=1e-12)


def test_r5_logistic_regression_has_the_golden_numbers():
    with jax.enable_x64(True):
        weights = jnp.asarray(WEIGHTS)
        batch = Public(logistic_batch())
        matvec = hessian_operator(logistic_loss_of_weights, weights, batch)
        hessian = 4 * dense(matvec, weights).value
        # The loss of the golden numbers is the sum over the four examples.
        np.testing.assert_allclose(hessian, HESSIAN, atol=1e-10)
        np.testing.assert_allclose(np.linalg.eigvalsh(hessian), EIGENVALUES, atol=1e-10)
        np.testing.assert_allclose(np.trace(hessian), TRACE, atol=1e-10)
        np.testing.assert_allclose(
            4 * matvec(jnp.array([1.0, -2.0, 3.0])),
            PRODUCT_WITH_1_MINUS_2_3,
            atol=1e-10,
        )
        p = sigmoid(INPUTS @ WEIGHTS + BIAS)
        analytic = INPUTS.T @ np.diag(p * (1 - p)) @ INPUTS
        np.testing.assert_allclose(hessian, analytic, rtol=1e-12)


def test_r5_logistic_regression_with_its_bias_has_the_golden_numbers():
    with jax.enable_x64(True):
        params = logistic_params()
        matvec = hessian_operator(logistic_loss, params, Public(logistic_batch()))
        hessian = 4 * dense(matvec, params).value
        values = np.linalg.eigvalsh(hessian)
        np.testing.assert_allclose(values, EIGENVALUES_WITH_BIAS, atol=1e-10)
        np.testing.assert_allclose(np.trace(hessian), TRACE_WITH_BIAS, atol=1e-10)


def test_it_is_the_dense_hessian_of_the_mean_loss():
    with jax.enable_x64(True):
        params, batch = mlp_params(), mlp_batch()
        flat, unravel = ravel_pytree(params)
        mean = mean_loss(mlp_loss, batch)
        expected = jax.jit(jax.hessian(lambda flat: mean(unravel(flat))))(flat)
        matvec = hessian_operator(mlp_loss, params, Public(batch))
        np.testing.assert_allclose(dense(matvec, params).value, expected, atol=1e-14)


def test_r15_it_is_the_finite_difference_of_gradients():
    with jax.enable_x64(True):
        params, batch = mlp_params(), mlp_batch()
        vector, step = vector_like(params), 1e-5
        grad = jax.jit(jax.grad(mean_loss(mlp_loss, batch)))

        def at(sign):
            moved = jax.tree.map(lambda p, v: p + sign * step * v, params, vector)
            return ravel_pytree(grad(moved))[0]

        expected = (at(1) - at(-1)) / (2 * step)
        product = hessian_operator(mlp_loss, params, Public(batch))(vector)
        error = ravel_pytree(product)[0] - expected
        assert np.linalg.norm(error) < 1e-6 * np.linalg.norm(expected)


@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(-3, 3))
def test_r14_it_is_linear_and_symmetric(seed, a, b):
    with jax.enable_x64(True):
        params = mlp_params()
        matvec = hessian_operator(mlp_loss, params, Public(mlp_batch()))
        u, v = vector_like(params, seed), vector_like(params, seed + 1)
        mixed = matvec(jax.tree.map(lambda x, y: a * x + b * y, u, v))
        sums = jax.tree.map(lambda x, y: a * x + b * y, matvec(u), matvec(v))
        assert_trees_close(mixed, sums, atol=1e-12)
        u, v, au, av = (ravel_pytree(tree)[0] for tree in (u, v, matvec(u), matvec(v)))
        np.testing.assert_allclose(u @ av, v @ au, atol=1e-12)


def test_r14_jit_changes_nothing_and_the_operator_is_an_argument():
    params = logistic_params()
    matvec = hessian_operator(logistic_loss, params, Public(logistic_batch()))
    vector = vector_like(params)
    with jax.disable_jit():
        plain = matvec(vector)
    jitted = jax.jit(lambda matvec, vector: matvec(vector))(matvec, vector)
    assert_trees_close(jitted, plain, atol=1e-6)
    assert_trees_close(matvec(vector), plain, atol=1e-6)


def test_r14_a_pytree_and_its_ravelled_vector_agree():
    with jax.enable_x64(True):
        params, batch = mlp_params(), mlp_batch()
        flat, unravel = ravel_pytree(params)

        def flat_loss(flat, x, label):
            return mlp_loss(unravel(flat), x, label)

        vector = vector_like(params)
        nested = hessian_operator(mlp_loss, params, Public(batch))(vector)
        ravelled = hessian_operator(flat_loss, flat, Public(batch))(
            ravel_pytree(vector)[0]
        )
        np.testing.assert_allclose(ravel_pytree(nested)[0], ravelled, atol=1e-14)


def test_r14_two_devices_give_what_one_gives():
    batch, vector = mlp_batch(8), vector_like(mlp_params())
    matvec = mlp_operator(on_two_devices(batch, ["data"]))
    assert len(matvec.operands[1][0].sharding.device_set) == 2
    product = matvec(on_two_devices(vector, []))
    assert_trees_close(product, mlp_operator(batch)(vector), atol=1e-6)


@pytest.mark.parametrize("microbatch_size", [4, 6])
def test_pieces_of_a_batch_change_nothing(microbatch_size):
    vector = vector_like(mlp_params())
    pieces = mlp_operator(microbatch_size=microbatch_size)(vector)
    assert_trees_close(pieces, mlp_operator()(vector), atol=1e-6)


@pytest.mark.slow
def test_one_example_a_piece_needs_less_memory():
    def temporaries(microbatch_size):
        params = mlp_params(features=64, width=64)
        batch = Public(mlp_batch(256, features=64))
        options = {"microbatch_size": microbatch_size}
        matvec = hessian_operator(mlp_loss, params, batch, **options)
        compiled = jax.jit(lambda a, v: a(v)).lower(matvec, params).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(8) < temporaries(None) / 2


def test_new_parameters_compile_nothing_anew():
    loss = Counted(mlp_loss)
    for seed in range(3):
        params = mlp_params(seed)
        hessian_operator(loss, params, Public(mlp_batch()))(params)
        if not seed:
            traced = len(loss.calls)
    assert len(loss.calls) == traced


def test_a_product_costs_at_most_twice_a_gradient():
    params = mlp_params(features=100, width=200, classes=10)
    batch = mlp_batch(256, features=100, classes=10)
    matvec = hessian_operator(mlp_loss, params, Public(batch))
    gradient = flops(jax.grad(mean_loss(mlp_loss, batch)), params)
    assert flops(lambda a, v: a(v), matvec, params) <= 2 * gradient


@pytest.mark.parametrize(
    "low", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)]
)
def test_parameters_in_low_precision_are_cast_up(low):
    params = jax.tree.map(lambda leaf: leaf.astype(low), mlp_params())
    vector = vector_like(params)
    product = hessian_operator(mlp_loss, params, Public(mlp_batch()))(vector)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(product)} == {"float32"}
    wide = [
        jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)
        for tree in (params, vector)
    ]
    exact = hessian_operator(mlp_loss, wide[0], Public(mlp_batch()))(wide[1])
    assert_trees_close(product, exact, rtol=1e-6)


@pytest.mark.slow
def test_a_float64_vector_gives_float64_curvature_of_float32_parameters():
    with jax.enable_x64(True):
        wide = mlp_params()
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), wide)
        batch = Public(mlp_batch())
        vector = vector_like(wide)
        product = hessian_operator(mlp_loss, params, batch)(vector)
        same_point = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        expected = hessian_operator(mlp_loss, same_point, batch)(vector)
        assert_trees_close(product, expected, rtol=1e-13)
        narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), vector)
        back = hessian_operator(mlp_loss, wide, batch)(narrow)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(back)} == {"float32"}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("microbatch_size", [None, 2])
def test_an_example_that_is_not_finite_makes_the_product_nan(bad, microbatch_size):
    x, labels = mlp_batch()
    matvec = mlp_operator((x.at[0].set(bad), labels), microbatch_size=microbatch_size)
    assert np.isnan(ravel_pytree(matvec(vector_like(mlp_params())))[0]).any()


def test_the_event_is_that_of_the_batch():
    batch = mlp_batch()
    public = hessian_operator(mlp_loss, mlp_params(), Public(batch))
    private = hessian_operator(mlp_loss, mlp_params(), Private(batch))
    assert public.event == dp_accounting.NoOpDpEvent()
    assert private.event == dp_accounting.NonPrivateDpEvent()


@pytest.mark.parametrize(
    ("params", "batch", "options", "error", "message"),
    [
        (jnp.arange(3), None, {}, TypeError, "floating-point leaves"),
        ({"w": jnp.ones(2), "i": 1}, None, {}, TypeError, r"params\['i'\].dtype"),
        (jnp.ones(3, jnp.complex64), None, {}, TypeError, "real leaves"),
        ({}, None, {}, ValueError, "at least one array"),
        (None, (jnp.ones(3),), {}, TypeError, r"Public\(batch\) or Private\(batch\)"),
        (None, Public((jnp.ones((0, 3)),)), {}, ValueError, "at least one example"),
        (None, Public((jnp.ones(3), jnp.ones(2))), {}, ValueError, "leading batch"),
        (None, None, {"microbatch_size": 0}, ValueError, "integer >= 1"),
    ],
)
def test_what_cannot_be_is_refused_at_once(params, batch, options, error, message):
    params = jnp.ones(3) if params is None else params
    batch = Public((jnp.ones((2, 3)),)) if batch is None else batch
    with pytest.raises(error, match=message):
        hessian_operator(jnp.vdot, params, batch, **options)


@pytest.mark.parametrize(
    ("loss", "vector", "error", "message"),
    [
        (jnp.vdot, jnp.ones(4), ValueError, "shape"),
        (jnp.vdot, {"w": jnp.ones(3)}, ValueError, "structure"),
        (jnp.vdot, jnp.arange(3), TypeError, "floating-point"),
        (jnp.multiply, jnp.ones(3), ValueError, "scalar"),
        (lambda w, x: 1j * jnp.vdot(w, x), jnp.ones(3), TypeError, "real"),
    ],
)
def test_what_cannot_be_is_refused_at_the_call(loss, vector, error, message):
    matvec = hessian_operator(loss, jnp.ones(3), Public((jnp.ones((2, 3)),)))
    with pytest.raises(error, match=message):
        matvec(vector)
