"""The empirical Fisher operator against the gradients that it never forms."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import (
    assert_trees_close,
    flops,
    logistic_batch,
    logistic_loss,
    logistic_params,
    mean_loss,
    mlp_batch,
    mlp_loss,
    mlp_params,
    on_two_devices,
    vector_like,
)
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from dpjax.autodiff import per_example_grad
from dpjax.curvature import Private, Public
from dpjax.curvature.fisher import fisher_operator
from dpjax.curvature.matrices import dense


def mlp_operator(batch=None, **options):
    batch = mlp_batch() if batch is None else batch
    return fisher_operator(mlp_loss, mlp_params(), Public(batch), **options)


def test_it_is_the_second_moment_of_per_example_gradients():
    with jax.enable_x64(True):
        params, batch = mlp_params(), mlp_batch()
        grads = per_example_grad(mlp_loss)(params, *batch)
        rows = jax.vmap(lambda tree: ravel_pytree(tree)[0])(grads)
        actual = dense(mlp_operator(), params).value
        np.testing.assert_allclose(actual, rows.T @ rows / 6, atol=1e-15)
        # Six examples: no more than six directions.
        assert np.linalg.matrix_rank(actual) == 6


def test_of_squared_errors_it_weighs_each_example_by_its_squared_residual():
    x, y = np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([3.0, 0.0])

    def loss(w, x, y):
        return (jnp.vdot(w, x) - y) ** 2 / 2

    batch = Public((jnp.asarray(x), jnp.asarray(y)))
    matvec = fisher_operator(loss, jnp.ones(2), batch)
    # Residuals 0 and 1: only the second example counts.
    np.testing.assert_allclose(dense(matvec, jnp.ones(2)).value, [[0, 0], [0, 0.5]])


@given(st.integers(0, 2**32 - 1))
def test_r14_it_is_linear_symmetric_and_positive(seed):
    with jax.enable_x64(True):
        params, matvec = mlp_params(), mlp_operator()
        u, v = vector_like(params, seed), vector_like(params, seed + 1)
        mixed = matvec(jax.tree.map(lambda x, y: 2 * x - 3 * y, u, v))
        sums = jax.tree.map(lambda x, y: 2 * x - 3 * y, matvec(u), matvec(v))
        assert_trees_close(mixed, sums, atol=1e-12)
        u, v, au, av = (ravel_pytree(tree)[0] for tree in (u, v, matvec(u), matvec(v)))
        np.testing.assert_allclose(u @ av, v @ au, atol=1e-12)
        assert u @ au >= 0


@pytest.mark.slow
def test_r14_jit_changes_nothing():
    params = logistic_params()
    matvec = fisher_operator(logistic_loss, params, Public(logistic_batch()))
    vector = vector_like(params)
    with jax.disable_jit():
        plain = matvec(vector)
    assert_trees_close(jax.jit(lambda a, v: a(v))(matvec, vector), plain, atol=1e-6)


@pytest.mark.slow
def test_r14_two_devices_give_what_one_gives():
    batch, vector = mlp_batch(8), vector_like(mlp_params())
    matvec = mlp_operator(on_two_devices(batch, ["data"]))
    assert len(matvec.operands[1][0].sharding.device_set) == 2
    product = matvec(on_two_devices(vector, []))
    assert_trees_close(product, mlp_operator(batch)(vector), atol=1e-6)


@pytest.mark.slow
def test_pieces_of_a_batch_change_nothing():
    vector = vector_like(mlp_params())
    pieces = mlp_operator(microbatch_size=4)(vector)
    assert_trees_close(pieces, mlp_operator()(vector), atol=1e-6)


@pytest.mark.slow
def test_no_per_example_gradient_is_formed():
    params = mlp_params(features=100, width=200, classes=10)
    batch = mlp_batch(256, features=100, classes=10)
    matvec = fisher_operator(mlp_loss, params, Public(batch))
    compiled = jax.jit(lambda a, v: a(v)).lower(matvec, params).compile()
    gradients = 256 * ravel_pytree(params)[0].nbytes
    assert compiled.memory_analysis().temp_size_in_bytes < gradients / 10
    gradient = flops(jax.grad(mean_loss(mlp_loss, batch)), params)
    assert flops(lambda a, v: a(v), matvec, params) <= 1.75 * gradient


@pytest.mark.slow
def test_parameters_in_low_precision_are_cast_up():
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), mlp_params())
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), low)
    vector, batch = vector_like(low), Public(mlp_batch())
    product = fisher_operator(mlp_loss, low, batch)(vector)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(product)} == {"float32"}
    exact = fisher_operator(mlp_loss, wide, batch)(
        jax.tree.map(lambda leaf: leaf.astype(jnp.float32), vector)
    )
    assert_trees_close(product, exact, rtol=1e-6)


def test_an_example_that_is_not_finite_makes_the_product_nan():
    x, labels = mlp_batch()
    matvec = mlp_operator((x.at[0, 0].set(np.nan), labels))
    assert np.isnan(ravel_pytree(matvec(mlp_params()))[0]).any()


def test_the_event_is_that_of_the_batch():
    private = fisher_operator(mlp_loss, mlp_params(), Private(mlp_batch()))
    assert mlp_operator().event == dp_accounting.NoOpDpEvent()
    assert private.event == dp_accounting.NonPrivateDpEvent()


def test_what_cannot_be_is_refused():
    with pytest.raises(TypeError, match="floating-point"):
        fisher_operator(jnp.vdot, jnp.arange(3), Public(jnp.ones((2, 3))))
    with pytest.raises(TypeError, match="Public"):
        fisher_operator(jnp.vdot, jnp.ones(3), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="shape"):
        fisher_operator(jnp.vdot, jnp.ones(3), Public(jnp.ones((2, 3))))(jnp.ones(2))
