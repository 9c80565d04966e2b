"""DP-FTRL's momentum: post-processing of private gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dpjax
from dpjax.optimizers.ftrl import ftrl

PARAMS = {"w": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array(3.0)}


def gradients(steps):
    keys = jax.random.split(jax.random.key(0), steps)
    return [
        jax.tree.map(lambda leaf, key=key: jax.random.normal(key, leaf.shape), PARAMS)
        for key in keys
    ]


def course(optimizer, steps=12, params=PARAMS):
    state, found = optimizer.init(params), []
    for gradient in gradients(steps):
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        found.append(params)
    return found


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.95])
def test_a_constant_learning_rate_is_sgd_with_momentum(momentum, nesterov):
    ours = course(ftrl(0.1, momentum, nesterov=nesterov))
    theirs = course(optax.sgd(0.1, momentum, nesterov))
    chex.assert_trees_all_close(ours, theirs, rtol=2e-5, atol=1e-5)


def test_every_step_is_the_papers_formula_under_a_schedule():
    schedule = optax.linear_schedule(0.5, 0.1, 8)
    found = course(ftrl(schedule, momentum=0.8), steps=8)
    total = buffer = jax.tree.map(lambda leaf: np.zeros(leaf.shape), PARAMS)
    for step, gradient in enumerate(gradients(8)):
        total = jax.tree.map(np.add, total, gradient)
        buffer = jax.tree.map(lambda v, s: 0.8 * v + s, buffer, total)
        rate = float(schedule(step))
        wanted = jax.tree.map(lambda w, v, r=rate: w - r * v, PARAMS, buffer)
        chex.assert_trees_all_close(found[step], wanted, rtol=1e-5, atol=1e-5)
    plain = course(optax.sgd(schedule, 0.8), steps=8)
    assert not np.allclose(plain[-1]["w"], found[-1]["w"], rtol=0.05)


def test_noise_that_cancels_in_sums_cancels_in_the_parameters():
    # What correlated noise is for: z_t - z_(t-1) added to the gradients.
    noise = jax.random.normal(jax.random.key(4), (40, 3))
    mixed = jnp.diff(noise, axis=0, prepend=0.0)
    optimizer, params = ftrl(1.0, momentum=0.0), jnp.zeros(3)
    state = optimizer.init(params)
    for row in mixed:
        updates, state = optimizer.update(row, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, -noise[-1], atol=1e-5)


def test_it_stands_behind_the_noise_and_nothing_is_spent_on_it():
    private = dpjax.privatize(ftrl(0.1), 1.0, 1.0, 0)
    dpjax.optimizers.check_optimizer(private, PARAMS)
    state = private.init(PARAMS)
    rows = jax.tree.map(lambda leaf: jnp.ones((4, *leaf.shape)), PARAMS)
    update = jax.jit(private.update)
    for _ in range(3):
        updates, state = update(rows, state, PARAMS)
    assert dpjax.privacy_spent(state, 1e-5).steps == 3
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, PARAMS)


def test_low_precision_parameters_keep_wide_sums():
    params = jnp.ones(2, jnp.bfloat16)
    optimizer = ftrl(1e-3, momentum=0.0)
    state = optimizer.init(params)
    for _ in range(64):
        updates, state = optimizer.update(jnp.full(2, 0.1, jnp.bfloat16), state, params)
    assert updates.dtype == jnp.bfloat16
    np.testing.assert_allclose(state.total, 6.4, rtol=2e-3)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_a_momentum_out_of_range_is_refused(momentum):
    with pytest.raises(ValueError, match="momentum"):
        ftrl(0.1, momentum)


def test_an_update_without_parameters_is_refused():
    optimizer = ftrl(0.1)
    with pytest.raises(ValueError, match="params"):
        optimizer.update(PARAMS, optimizer.init(PARAMS))
