"""Sharpness-aware training on private averages."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpjax import optimizers
from dpjax.optimizers import sharpness_aware, trained_params


def run(optimizer, gradient, start, steps):
    """Return the points where gradients were taken, and the state at the end."""
    params, state, points = start, optimizer.init(start), []
    for _ in range(steps):
        points.append(params)
        updates, state = optimizer.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
    return points, state


@settings(deadline=None, max_examples=20)
@given(st.floats(0.0, 2.0), st.integers(0, 2**31))
def test_gradients_are_taken_uphill_of_the_trained_parameters(radius, seed):
    start = jnp.asarray(np.random.default_rng(seed).normal(size=3), jnp.float32)
    scales = jnp.array([1.0, 4.0, 0.1])
    optimizer = sharpness_aware(optax.adam(0.05), radius)
    points, state = run(optimizer, lambda p: scales * p, start, 4)
    # The same by hand.
    centre, adam, last = start, optax.adam(0.05), None
    inner = adam.init(centre)
    for point in points:
        uphill = 0 if last is None else radius * last / jnp.linalg.norm(last)
        np.testing.assert_allclose(point, centre + uphill, rtol=1e-4, atol=1e-5)
        last = scales * point
        updates, inner = adam.update(last, inner, centre)
        centre = optax.apply_updates(centre, updates)
    np.testing.assert_allclose(trained_params(state), centre, rtol=1e-4, atol=1e-5)


def test_without_a_radius_it_is_the_optimizer_alone():
    start = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}

    def gradient(params):
        return jax.tree.map(jnp.sin, params)

    optimizer = optax.sgd(0.1, momentum=0.9)
    points, state = run(sharpness_aware(optimizer, 0.0), gradient, start, 5)
    expected, _ = run(optimizer, gradient, start, 5)
    for a, b in zip(jax.tree.leaves(points), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert jax.tree.structure(trained_params(state)) == jax.tree.structure(start)


@pytest.mark.slow
def test_it_settles_in_the_wider_of_two_minima():
    # Of the same depth: a narrow one at -1, a wide one at 1.
    def loss(x):
        return -jnp.exp(-((x + 1) ** 2) / 0.005) - jnp.exp(-((x - 1) ** 2) / 0.5)

    start, gradient = jnp.array(-0.95), jax.grad(loss)
    _, plain = run(sharpness_aware(optax.sgd(0.002), 0.0), gradient, start, 300)
    _, aware = run(sharpness_aware(optax.sgd(0.002), 0.2), gradient, start, 300)
    assert trained_params(plain) == pytest.approx(-1, abs=0.02)
    assert abs(float(trained_params(aware)) + 1) > 0.1


def test_behind_the_noise_it_costs_nothing():
    inner = sharpness_aware(optax.sgd(0.1), 0.05)
    options = {"key": 0, "expected_batch_size": 4}
    private = optimizers.privatize(inner, 1.0, 1.1, **options)
    plain = optimizers.privatize(optax.sgd(0.1), 1.0, 1.1, **options)
    params = jnp.zeros(3)
    optimizers.check_optimizer(private, params)
    spent = []
    for optimizer in (private, plain):
        state = optimizer.init(params)
        for _ in range(3):
            _, state = optimizer.update(jnp.ones((4, 3)), state, params)
        spent.append(optimizers.privacy_spent(state, 1e-5))
    assert spent[0] == spent[1]
    assert trained_params(optax.chain(private).init(params)).shape == (3,)


def test_a_release_of_zeros_stays_where_it_is():
    optimizer = sharpness_aware(optax.sgd(0.1), 0.5)
    params = jnp.array([1.0, 2.0])
    updates, _ = optimizer.update(jnp.zeros(2), optimizer.init(params), params)
    np.testing.assert_array_equal(updates, 0)


def test_low_precision_parameters_are_trained_in_float32():
    optimizer = sharpness_aware(optax.sgd(1e-4), 0.0)
    params = jnp.ones(2, jnp.bfloat16)
    _, state = run(optimizer, jnp.ones_like, params, 20)
    np.testing.assert_allclose(trained_params(state), 1 - 20e-4, rtol=1e-5)


@pytest.mark.parametrize("radius", [-1.0, np.nan, np.inf])
def test_a_radius_out_of_range_is_refused(radius):
    with pytest.raises(ValueError, match="radius"):
        sharpness_aware(optax.sgd(0.1), radius)


def test_what_is_missing_is_said():
    optimizer = sharpness_aware(optax.sgd(0.1), 0.1)
    params = jnp.zeros(2)
    with pytest.raises(ValueError, match="Expected the parameters"):
        optimizer.update(params, optimizer.init(params))
    with pytest.raises(ValueError, match="one SharpnessAwareState"):
        trained_params(optax.sgd(0.1).init(params))
