"""examples/private_maml.py: weights that adapt fast, learnt from private tasks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import private_learners
import private_maml
import pytest
from private_maml import INNER_RATE, INNER_STEPS, SHOWN_STEPS, Settings

import dpjax

SMALL = Settings(epsilon=8.0, delta=1e-5, steps=40, seed=0)


@pytest.fixture(scope="module")
def drawn():
    return private_maml.tasks(jax.random.key(0), 64)


@pytest.fixture(scope="module")
def params():
    return private_maml.initial(jax.random.key(1))


def one(drawn, index=0):
    return [part[index] for part in drawn]


def test_a_task_is_one_wave_seen_in_two_sets_of_points(drawn):
    x, y = np.hstack(drawn[::2]), np.hstack(drawn[1::2])
    assert x.shape == (64, 2 * private_maml.POINTS)
    assert np.abs(x).max() <= 5
    # A wave of frequency one is a combination of sine and cosine.
    for points, values in zip(x, y, strict=True):
        basis = np.stack([np.sin(points), np.cos(points)], axis=1)
        weights, *_ = np.linalg.lstsq(basis, values)
        np.testing.assert_allclose(basis @ weights, values, atol=1e-3)
        assert 0.1 - 1e-3 <= np.linalg.norm(weights) <= 5 + 1e-3
        assert weights[1] <= 1e-3  # a phase in [0, pi]


def test_tasks_differ_and_their_points_too(drawn):
    for part in drawn:
        assert len({tuple(row) for row in np.asarray(part)}) == 64


def test_inner_steps_are_gradient_descent_on_the_support_set(drawn, params):
    x, y, *_ = one(drawn)
    grads = jax.grad(private_maml.squared_error)(params, x, y)
    adapted = private_maml.adapt(params, x, y, 1)
    for p, g, found in zip(
        *map(jax.tree.leaves, (params, grads, adapted)), strict=True
    ):
        np.testing.assert_allclose(found, p - INNER_RATE * g, rtol=1e-5, atol=1e-6)
    before, after = (private_maml.squared_error(p, x, y) for p in (params, adapted))
    assert after < before


def test_the_meta_gradient_has_the_hessian_in_it(drawn, params):
    support_x, support_y, query_x, query_y = one(drawn)

    def support_loss(params):
        return private_maml.squared_error(params, support_x, support_y)

    adapted = private_maml.adapt(params, support_x, support_y, 1)
    after = jax.grad(private_maml.squared_error)(adapted, query_x, query_y)
    hessian_part = dpjax.hvp(support_loss, params, after)
    expected = jax.tree.map(lambda a, h: a - INNER_RATE * h, after, hessian_part)
    found = jax.jit(jax.grad(private_maml.make_loss(1)))(params, *one(drawn))
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(hessian_part)) > 1
    for leaf, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-3)


def test_one_task_moves_the_clipped_sum_by_at_most_the_clip_norm(drawn, params):
    mechanism = SMALL.mechanism(64, 16, l2_norm_clip=1.0)
    clipped_grad = mechanism.clipped_grad(private_maml.make_loss(1))
    total = clipped_grad(params, *drawn, mask=jnp.ones(64, bool))
    largest = int(jnp.argmax(total.per_example.grad_norm))
    assert total.per_example.grad_norm[largest] > mechanism.sensitivity == 1.0
    for left_out in (0, largest):
        mask = jnp.arange(64) != left_out
        rest = clipped_grad(params, *drawn, mask=mask)
        moved = jax.tree.map(jnp.subtract, total.sum, rest.sum)
        norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(moved)))
        expected = min(float(total.per_example.grad_norm[left_out]), 1.0)
        np.testing.assert_allclose(norm, expected, rtol=1e-3)


@pytest.mark.slow
def test_private_weights_adapt_better_than_untrained_ones(params):
    mechanism = SMALL.mechanism(2000, 100, l2_norm_clip=1.0)
    held_out = private_maml.tasks(jax.random.key(3), 200)
    learnt = private_learners.train(
        mechanism,
        private_maml.make_loss(INNER_STEPS),
        params,
        private_maml.tasks(jax.random.key(2), 2000),
        optax.adam(0.01),
        SMALL.seed,
    )
    shown = SHOWN_STEPS.index(INNER_STEPS)
    before = private_maml.query_losses(params, held_out)
    after = private_maml.query_losses(learnt, held_out)
    assert after[shown] < 0.75 * before[shown]
    assert after[shown] < 0.75 * after[0]  # the inner steps are what it has learnt


@pytest.mark.slow
def test_every_way_to_learn_is_reported():
    mechanism, found = private_maml.learn(SMALL, num_tasks=4000, num_held_out=200)
    assert (mechanism.num_examples, mechanism.num_steps) == (4000, 40)
    assert 7.99 < mechanism.epsilon(1e-5) <= 8.0
    assert list(found) == ["untrained", "all tasks as one", "MAML", "private MAML"]
    loss = {
        name: losses[SHOWN_STEPS.index(INNER_STEPS)] for name, losses in found.items()
    }
    assert loss["private MAML"] < 0.75 * loss["all tasks as one"]
    assert loss["MAML"] < 0.75 * loss["all tasks as one"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_with_its_defaults_it_learns_to_learn(seed):
    settings = dataclasses.replace(private_maml.DEFAULTS, seed=seed)
    mechanism, found = private_maml.learn(settings)
    assert mechanism.epsilon(settings.delta) <= settings.epsilon <= 8
    loss = {
        name: losses[SHOWN_STEPS.index(INNER_STEPS)] for name, losses in found.items()
    }
    assert loss["private MAML"] < 1.0
    assert loss["private MAML"] < 0.4 * loss["all tasks as one"]
    assert loss["private MAML"] < 0.4 * loss["untrained"]
