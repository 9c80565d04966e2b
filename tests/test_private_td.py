"""examples/private_td.py: values of a random walk, learnt from private episodes."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import private_td
import pytest
from private_td import STATES, TRUE_VALUES, Settings

import dpjax

SMALL = Settings(epsilon=4.0, delta=1e-5, steps=40, seed=0)


@pytest.fixture(scope="module")
def walks():
    return private_td.episodes(jax.random.key(0), 400)


def padded(*states):
    rest = private_td.MAX_LENGTH + 1 - len(states)
    return jnp.array([*states, *[states[-1]] * rest], jnp.int8)


def test_walks_start_in_the_middle_move_by_one_and_stay_at_the_ends(walks):
    states = np.asarray(walks, int)
    assert states.shape == (400, private_td.MAX_LENGTH + 1)
    assert (states[:, 0] == 10).all()
    live = (states[:, :-1] > 0) & (states[:, :-1] < STATES + 1)
    np.testing.assert_array_equal(np.abs(np.diff(states)), live)
    ends = states[:, -1]
    # As many right as left, within four standard errors of a fair coin.
    assert abs((ends == 20).sum() - (ends == 0).sum()) < 4 * 400**0.5
    assert ((ends == 0) | (ends == 20)).mean() > 0.8


def test_true_values_are_the_mean_of_their_neighbours_and_the_rewards():
    around = np.concatenate([[-1], TRUE_VALUES, [1]])
    np.testing.assert_allclose(TRUE_VALUES, (around[:-2] + around[2:]) / 2, atol=1e-12)


def test_minus_the_gradient_is_the_td_update_of_the_whole_episode():
    values = jnp.linspace(-0.5, 0.7, STATES)
    states = [10, 11, 10, 9, *range(8, -1, -1)]
    update = np.zeros(STATES)
    for before, after in itertools.pairwise(states):
        gained = values[after - 1] if after else -1.0
        update[before - 1] += gained - values[before - 1]
    found = -jax.grad(private_td.td_loss)(values, padded(*states))
    np.testing.assert_allclose(found, update, atol=1e-6)


def test_the_end_on_the_right_gives_reward_one():
    found = -jax.grad(private_td.td_loss)(jnp.zeros(STATES), padded(*range(10, 21)))
    np.testing.assert_allclose(found, np.eye(STATES)[-1], atol=1e-7)


def test_the_true_values_are_where_td_updates_are_zero_on_average():
    walks = private_td.episodes(jax.random.key(1), 4000)
    values = jnp.asarray(TRUE_VALUES, jnp.float32)
    grads = np.asarray(dpjax.per_example_grad(private_td.td_loss)(values, walks))
    errors = grads.std(0) / len(grads) ** 0.5
    assert (np.abs(grads.mean(0)) < 4.5 * errors).all()


def test_one_episode_moves_the_clipped_sum_by_at_most_the_clip_norm(walks):
    mechanism = SMALL.mechanism(400, 100, l2_norm_clip=1.0)
    clipped_grad = mechanism.clipped_grad(private_td.td_loss)
    values = jnp.zeros(STATES).at[9].set(5.0)  # so that every episode is clipped
    total = clipped_grad(values, walks, mask=jnp.ones(400, bool))
    for left_out in (0, 7, 399):
        mask = jnp.arange(400) != left_out
        moved = total.sum - clipped_grad(values, walks, mask=mask).sum
        norm = total.per_example.grad_norm[left_out]
        assert norm > mechanism.sensitivity == 1.0
        np.testing.assert_allclose(np.linalg.norm(moved), 1.0, rtol=1e-3)


def test_it_learns_with_privacy_and_without():
    mechanism, learnt = private_td.learn(SMALL, num_episodes=400)
    assert (mechanism.num_examples, mechanism.num_steps) == (400, 40)
    assert mechanism.epsilon(1e-5) <= 4.0
    error = {name: private_td.rms_error(values) for name, values in learnt.items()}
    np.testing.assert_allclose(error["before learning"], 0.5477, atol=1e-4)
    assert error["TD(0)"] < 0.35
    assert error["private TD(0)"] < 0.4


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_with_its_defaults_it_finds_the_true_values(seed):
    settings = dataclasses.replace(private_td.DEFAULTS, seed=seed)
    _, learnt = private_td.learn(settings)
    assert private_td.rms_error(learnt["TD(0)"]) < 0.05
    assert private_td.rms_error(learnt["private TD(0)"]) < 0.12


@pytest.mark.slow
def test_it_says_what_it_found_and_what_it_spent():
    text = private_td.describe(dataclasses.replace(private_td.DEFAULTS, seed=0))
    assert "RMS error" in text
    assert "(1.0000, 1e-05)-differentially private for each episode" in text
