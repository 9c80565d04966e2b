"""The Gauss-Newton operator against closed forms and the Hessian."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import (
    EIGENVALUES_WITH_BIAS,
    assert_trees_close,
    binary_loss,
    cross_entropy,
    flops,
    linear_model,
    logistic_batch,
    logistic_params,
    logit,
    mean_loss,
    mlp,
    mlp_batch,
    mlp_loss,
    mlp_params,
    on_two_devices,
    vector_like,
)
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from dpjax.curvature import Private, Public
from dpjax.curvature.ggn import ggn_operator
from dpjax.curvature.hessian import hessian_operator
from dpjax.curvature.matrices import dense


def half_square(output, target):
    return jnp.sum((output - target) ** 2) / 2


def mlp_operator(batch=None, params=None, **options):
    batch = mlp_batch() if batch is None else batch
    params = mlp_params() if params is None else params
    return ggn_operator(mlp, cross_entropy, params, Public(batch), **options)


def softmax_hessian(weights, x):
    """Return mean (diag p - p p^T) kron x x^T, for weights (classes, features)."""
    logits = x @ weights.T
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    terms = [
        np.kron(np.diag(q) - np.outer(q, q), np.outer(row, row))
        for q, row in zip(p, x, strict=True)
    ]
    return np.mean(terms, axis=0)


def softmax_data(classes, num_examples=12, features=3):
    random = np.random.default_rng(0)
    x = random.normal(size=(num_examples, features))
    return x, random.integers(0, classes, num_examples)


def test_r4_linear_regression_equals_the_hessian():
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(7, 3))
        batch = Public((jnp.asarray(x), jnp.ones(7)))
        matvec = ggn_operator(jnp.vdot, half_square, jnp.ones(3), batch)
        expected = x.T @ x / 7
        np.testing.assert_allclose(dense(matvec, jnp.ones(3)).value, expected)


def test_r5_logistic_regression_has_the_golden_eigenvalues():
    with jax.enable_x64(True):
        params = logistic_params()
        matvec = ggn_operator(logit, binary_loss, params, Public(logistic_batch()))
        values = np.linalg.eigvalsh(4 * dense(matvec, params).value)
        np.testing.assert_allclose(values, EIGENVALUES_WITH_BIAS, atol=1e-10)


def test_r6_softmax_regression_has_its_closed_form():
    with jax.enable_x64(True):
        x, labels = softmax_data(classes=4)
        weights = np.random.default_rng(1).normal(size=(4, 3))
        batch = Public((jnp.asarray(x), jnp.asarray(labels)))
        matvec = ggn_operator(linear_model, cross_entropy, jnp.asarray(weights), batch)
        actual = dense(matvec, weights).value
        np.testing.assert_allclose(actual, softmax_hessian(weights, x), atol=1e-14)
        hessian = hessian_operator(
            lambda w, x, y: cross_entropy(linear_model(w, x), y), weights, batch
        )
        np.testing.assert_allclose(dense(hessian, weights).value, actual, atol=1e-14)


def test_r7_softmax_regression_at_zero_has_eigenvalues_with_multiplicity():
    with jax.enable_x64(True):
        classes = 10
        x, labels = softmax_data(classes)
        weights = jnp.zeros((classes, 3))
        batch = Public((jnp.asarray(x), jnp.asarray(labels)))
        matvec = ggn_operator(linear_model, cross_entropy, weights, batch)
        values = np.linalg.eigvalsh(dense(matvec, weights).value)
        of_inputs = np.linalg.eigvalsh(x.T @ x / len(x)) / classes
        expected = np.concatenate([np.zeros(3), np.repeat(of_inputs, classes - 1)])
        np.testing.assert_allclose(values, expected, atol=1e-14)


def test_it_is_the_product_of_jacobians_and_the_output_hessian():
    with jax.enable_x64(True):
        params, (x, labels) = mlp_params(), mlp_batch()
        flat, unravel = ravel_pytree(params)
        jacobians = jax.jit(
            jax.vmap(jax.jacrev(lambda w, x: mlp(unravel(w), x)), (None, 0))
        )(flat, x)
        outputs = jax.jit(jax.vmap(mlp, (None, 0)))(params, x)
        hessians = jax.jit(jax.vmap(jax.hessian(cross_entropy)))(outputs, labels)
        expected = jnp.einsum("nop,noq,nqr->pr", jacobians, hessians, jacobians) / 6
        actual = dense(mlp_operator(), params).value
        np.testing.assert_allclose(actual, expected, atol=1e-14)
        assert np.linalg.eigvalsh(actual).min() > -1e-14


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(-3, 3))
def test_r14_it_is_linear_symmetric_and_positive(seed, a, b):
    with jax.enable_x64(True):
        params, matvec = mlp_params(), mlp_operator()
        u, v = vector_like(params, seed), vector_like(params, seed + 1)
        mixed = matvec(jax.tree.map(lambda x, y: a * x + b * y, u, v))
        sums = jax.tree.map(lambda x, y: a * x + b * y, matvec(u), matvec(v))
        assert_trees_close(mixed, sums, atol=1e-12)
        u, v, au, av = (ravel_pytree(tree)[0] for tree in (u, v, matvec(u), matvec(v)))
        np.testing.assert_allclose(u @ av, v @ au, atol=1e-12)
        assert u @ au >= 0


@pytest.mark.slow
def test_r14_jit_changes_nothing():
    params = logistic_params()
    matvec = ggn_operator(logit, binary_loss, params, Public(logistic_batch()))
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


def test_a_product_costs_less_than_one_with_the_hessian():
    params = mlp_params(features=100, width=200, classes=10)
    batch = mlp_batch(256, features=100, classes=10)
    hessian = hessian_operator(mlp_loss, params, Public(batch))
    matvec = mlp_operator(batch, params)
    gradient = flops(jax.grad(mean_loss(mlp_loss, batch)), params)
    operations = flops(lambda a, v: a(v), matvec, params)
    assert operations <= 1.75 * gradient
    assert operations < flops(lambda a, v: a(v), hessian, params)


def test_outputs_and_targets_are_pytrees():
    def model(params, x):
        return {"mean": params * x, "shift": (params - x,)}

    def loss(output, target):
        errors = jax.tree.map(lambda a, b: (a - b) ** 2, output, target)
        return errors["mean"] + 3 * errors["shift"][0]

    x = jnp.array([1.0, 2.0])
    targets = {"mean": x, "shift": (x,)}
    matvec = ggn_operator(model, loss, jnp.ones(()), Public((x, targets)))
    # d mean = x and d shift = 1: the mean of 2 x^2 + 6.
    np.testing.assert_allclose(matvec(jnp.ones(())), 11.0, rtol=1e-6)


def test_models_in_low_precision_have_a_loss_in_float32():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), mlp_params())
    batch, vector = mlp_batch(), vector_like(mlp_params())
    product = mlp_operator(batch, params)(vector)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    assert_trees_close(product, mlp_operator(batch, wide)(vector), rtol=1e-6)

    def low_model(params, x):
        low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
        return mlp(low, x.astype(jnp.bfloat16))

    def loss(output, label):
        assert output.dtype == jnp.float32
        return cross_entropy(output, label)

    low = ggn_operator(low_model, loss, params, Public(batch))(vector)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(low)} == {"float32"}
    assert_trees_close(low, product, atol=0.05)


def test_an_example_that_is_not_finite_makes_the_product_nan():
    x, labels = mlp_batch()
    matvec = mlp_operator((x.at[0, 0].set(np.nan), labels))
    assert np.isnan(ravel_pytree(matvec(mlp_params()))[0]).any()


def test_the_event_is_that_of_the_batch():
    private = ggn_operator(mlp, cross_entropy, mlp_params(), Private(mlp_batch()))
    assert mlp_operator().event == dp_accounting.NoOpDpEvent()
    assert private.event == dp_accounting.NonPrivateDpEvent()


@pytest.mark.parametrize(
    ("params", "batch", "error", "message"),
    [
        (jnp.arange(3), Public((jnp.ones((2, 3)), jnp.ones(2))), TypeError, "floating"),
        (jnp.ones(3), Public(jnp.ones((2, 3))), ValueError, r"\(\*inputs, target\)"),
        (jnp.ones(3), Public((jnp.ones((2, 3)),)), ValueError, r"\(\*inputs, target\)"),
        (jnp.ones(3), (jnp.ones((2, 3)), jnp.ones(2)), TypeError, "Public"),
    ],
)
def test_what_cannot_be_is_refused_at_once(params, batch, error, message):
    with pytest.raises(error, match=message):
        ggn_operator(jnp.vdot, half_square, params, batch)


@pytest.mark.parametrize(
    ("model", "loss", "vector", "error", "message"),
    [
        (jnp.vdot, half_square, jnp.ones(4), ValueError, "shape"),
        (jnp.multiply, jnp.subtract, jnp.ones(3), ValueError, "scalar"),
        (lambda w, x: jnp.argmax(w), half_square, jnp.ones(3), TypeError, "output"),
    ],
)
def test_what_cannot_be_is_refused_at_the_call(model, loss, vector, error, message):
    batch = Public((jnp.ones((2, 3)), jnp.ones(2)))
    with pytest.raises(error, match=message):
        ggn_operator(model, loss, jnp.ones(3), batch)(vector)
