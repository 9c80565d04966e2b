"""The influence of examples against training without them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import (
    cross_entropy,
    mlp,
    mlp_batch,
    mlp_loss,
    mlp_params,
    on_two_devices,
)
from jax.flatten_util import ravel_pytree

import dpjax
from dpjax.autodiff import per_example_grad
from dpjax.curvature import Private, Public
from dpjax.curvature.ggn import ggn_operator
from dpjax.curvature.hessian import hessian_operator
from dpjax.curvature.influences import influence
from dpjax.curvature.matrices import dense

DAMPING = 0.3


def half_square(output, target):
    return (output - target) ** 2 / 2


def linear_loss(weights, x, y):
    return half_square(jnp.vdot(weights, x), y)


def regression(num_examples=200, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(num_examples, 3))
    y = x @ np.array([1.0, -2.0, 0.5]) + 0.3 * random.normal(size=num_examples)
    return x, y


def fit(x, y, damping):
    """Minimise the mean loss + damping |w|^2 / 2."""
    size = len(y)
    return np.linalg.solve(x.T @ x / size + damping * np.eye(3), x.T @ y / size)


def network_influence(train, test, **options):
    params = mlp_params()
    matvec = ggn_operator(mlp, cross_entropy, params, train)
    options = {"damping": DAMPING, **options}
    return influence(matvec, mlp_loss, params, train, test, **options)


def test_of_least_squares_it_is_what_leaving_one_out_does():
    with jax.enable_x64(True):
        (x, y), (test_x, test_y) = regression(), regression(50, seed=1)
        weights = fit(x, y, 0.0)
        train = Public((jnp.asarray(x), jnp.asarray(y)))
        test = Public((jnp.asarray(test_x), jnp.asarray(test_y)))
        matvec = hessian_operator(linear_loss, weights, train)
        found = influence(matvec, linear_loss, weights, train, test, damping=0.0)

        def test_loss(weights):
            return np.mean((test_x @ weights - test_y) ** 2) / 2

        left_out = [
            test_loss(fit(np.delete(x, i, 0), np.delete(y, i), 0.0)) for i in range(200)
        ]
        changes = 200 * (np.array(left_out) - test_loss(weights))
        # To first order in 1/N: the next term is 1/N as large.
        assert np.corrcoef(found.value, changes)[0, 1] > 0.999
        np.testing.assert_allclose(
            found.value, changes, atol=0.05 * abs(changes).max(), rtol=0
        )


@pytest.mark.slow
def test_it_is_the_formula_with_dense_matrices():
    with jax.enable_x64(True):
        params, train, test = mlp_params(), mlp_batch(), mlp_batch(4, seed=5)
        found = network_influence(Public(train), Public(test), tolerance=1e-12)

        def rows(batch):
            grads = per_example_grad(mlp_loss)(params, *batch)
            return jax.vmap(lambda tree: ravel_pytree(tree)[0])(grads)

        matvec = ggn_operator(mlp, cross_entropy, params, Public(train))
        matrix = dense(matvec, params).value
        solved = np.linalg.solve(
            matrix + DAMPING * np.eye(len(matrix)), rows(test).mean(0)
        )
        np.testing.assert_allclose(found.value, rows(train) @ solved, atol=1e-10)
        assert found.residual < 1e-10


def test_an_example_helps_with_itself():
    batch = mlp_batch(1)
    found = network_influence(Public(batch), Public(batch))
    assert found.value.shape == (1,)
    assert found.value[0] > 0


@pytest.mark.slow
def test_jit_and_two_devices_change_nothing():
    train, test = mlp_batch(8), mlp_batch(4, seed=5)
    plain = network_influence(Public(train), Public(test))
    jitted = jax.jit(lambda a, b: network_influence(Public(a), Public(b)))(train, test)
    two = network_influence(Public(on_two_devices(train, ["data"])), Public(test))
    np.testing.assert_allclose(jitted.value, plain.value, atol=1e-5)
    np.testing.assert_allclose(two.value, plain.value, atol=1e-5)


@pytest.mark.slow
def test_parameters_in_low_precision_are_cast_up():
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), mlp_params())
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), low)
    batch = Public(mlp_batch())
    values = [
        influence(
            ggn_operator(mlp, cross_entropy, params, batch),
            mlp_loss,
            params,
            batch,
            batch,
            damping=DAMPING,
        ).value
        for params in (low, wide)
    ]
    assert values[0].dtype == jnp.float32
    np.testing.assert_allclose(*values, rtol=1e-5)


def test_what_is_not_finite_makes_it_nan():
    x, labels = mlp_batch()
    broken = Public((x.at[2, 0].set(np.nan), labels))
    params, good = mlp_params(), Public((x, labels))
    matvec = ggn_operator(mlp, cross_entropy, params, good)
    options = {"damping": DAMPING}
    of_test = influence(matvec, mlp_loss, params, good, broken, **options)
    assert np.isnan(of_test.value).all()
    of_train = influence(matvec, mlp_loss, params, broken, good, **options)
    np.testing.assert_array_equal(np.isnan(of_train.value), np.arange(6) == 2)


@pytest.mark.parametrize(
    ("operator", "train", "test", "private"),
    [
        (Public, Public, Public, False),
        (Private, Public, Public, True),
        (Public, Private, Public, True),
        (Public, Public, Private, True),
        (Private, Private, Private, True),
    ],
)
def test_it_costs_what_operator_train_and_test_cost(operator, train, test, private):
    batch, params = mlp_batch(), mlp_params()
    matvec = ggn_operator(mlp, cross_entropy, params, operator(batch))
    found = influence(
        matvec, mlp_loss, params, train(batch), test(batch), damping=DAMPING
    )
    ledger = dpjax.PrivacyLedger()
    ledger.spend(found.event, "influence")
    assert ledger.epsilon(1e-5) == (math.inf if private else 0)


def test_a_bare_operator_leaves_the_event_unknown():
    batch = Public(jnp.ones((2, 3)))
    found = influence(lambda v: v, jnp.vdot, jnp.ones(3), batch, batch, damping=0.0)
    assert found.event is None
    np.testing.assert_allclose(found.value, [3, 3])


def test_a_bare_operator_is_read_again_at_every_call():
    batch, scale = Public(jnp.ones((2, 3))), [1.0]

    def matvec(vector):
        return scale[0] * vector

    def values():
        found = influence(matvec, jnp.vdot, jnp.ones(3), batch, batch, damping=0.0)
        return found.value

    np.testing.assert_allclose(values(), [3, 3])
    scale[0] = 2.0
    np.testing.assert_allclose(values(), [1.5, 1.5])


def test_what_cannot_be_is_refused():
    batch = Public(jnp.ones((2, 3)))
    with pytest.raises(TypeError, match="Public"):
        influence(
            lambda v: v, jnp.vdot, jnp.ones(3), jnp.ones((2, 3)), batch, damping=0.0
        )
    with pytest.raises(ValueError, match="damping"):
        influence(lambda v: v, jnp.vdot, jnp.ones(3), batch, batch, damping=-1.0)
    with pytest.raises(TypeError, match="floating-point"):
        influence(lambda v: v, jnp.vdot, jnp.arange(3), batch, batch, damping=0.0)
