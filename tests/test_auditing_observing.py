"""What a private optimizer releases, seen from behind it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from audited import data, loss, params, plan

from dpjax.auditing.observing import Observed, observed, released_total
from dpjax.auditing.watching import Background, Trail


def test_the_observer_changes_no_update():
    grads = jax.tree.map(jnp.ones_like, params())
    plain, seen = optax.adam(0.1), observed(optax.adam(0.1))
    states = plain.init(params()), seen.init(params())
    for _ in range(3):
        expected, first = plain.update(grads, states[0], params())
        found, second = seen.update(grads, states[1], params())
        states = first, second
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_total_is_found_behind_the_noise_and_holds_what_was_released():
    mechanism = plan(noise_multiplier=0.0)
    optimizer = mechanism.optimizer(observed(optax.sgd(0.5)), 0)
    state = optimizer.init(params())
    grads = mechanism.clipped_grad(loss)(params(), *data())
    for _ in range(2):
        _, state = optimizer.update(grads.without_per_example(), state, params())
    total = released_total(state)
    for found, clipped in zip(*map(jax.tree.leaves, (total, grads.sum)), strict=True):
        np.testing.assert_allclose(found, 2 * clipped / 100, rtol=1e-5)


def test_sums_of_half_precision_are_kept_in_float32():
    state = observed(optax.sgd(1.0)).init(jnp.zeros(3, jnp.bfloat16))
    assert isinstance(state[0], Observed)
    assert state[0].total.dtype == jnp.float32


def test_a_state_without_an_observer_is_refused():
    with pytest.raises(ValueError, match="unpack"):
        released_total(optax.sgd(1.0).init(params()))


def test_the_background_is_what_the_data_are_expected_to_add():
    mechanism = plan(num_steps=2)
    watch = Background(mechanism, loss, data(), size=10**6, options={})
    for _ in range(3):  # the last call is after the last step
        watch(params())
    whole = mechanism.clipped_grad(loss)(params(), *data()).sum
    for found, part in zip(*map(jax.tree.leaves, (watch.total, whole)), strict=True):
        np.testing.assert_allclose(found, 2 * 0.5 * part, rtol=1e-5, atol=1e-6)


def test_an_estimated_background_is_right_in_the_mean():
    # Of what 20 examples a step say, the mean is off by a root of the number of steps.
    mechanism = plan(num_steps=400)
    watch = Background(mechanism, loss, data(), size=20, options={})
    for _ in range(400):
        watch(params())
    whole = mechanism.clipped_grad(loss)(params(), *data()).sum
    error, length = (
        sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(tree)) ** 0.5
        for tree in (
            jax.tree.map(lambda a, b: a / 200 - b, watch.total, whole),
            whole,
        )
    )
    assert error < 0.1 * length


def test_a_trail_keeps_copies():
    trail, tree = Trail(), {"w": np.zeros(2)}
    trail({"w": jnp.zeros(2)})
    trail({"w": jnp.ones(2)})
    assert [kept["w"].tolist() for kept in trail.kept] == [[0, 0], [1, 1]]
    assert tree["w"].tolist() == [0, 0]
