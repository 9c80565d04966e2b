"""Canaries and their directions, rows and places in a run."""

import dataclasses

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from audited import NUM_EXAMPLES, data, loss, params, plan

from dpjax import sampling
from dpjax.auditing import ExampleCanaries, GradientCanaries, planting, with_canaries
from dpjax.auditing.crafting import examples
from dpjax.auditing.directions import Directions

SIZE = 60 * 20 + 20 * 2


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def vectors(directions, like):
    """Return all directions as rows, from the gradient of their inner products."""
    grads = jax.vmap(jax.grad(directions.inner), (None, 0))(
        like, jnp.arange(directions.canaries.count)
    )
    leaves = [np.reshape(g, (len(g), -1)) for g in jax.tree.leaves(grads)]
    return np.concatenate(leaves, axis=1)


def test_dirac_directions_are_distinct_coordinates():
    found = vectors(Directions.make(GradientCanaries(SIZE), params()), params())
    assert sorted(np.unique(found)) == [0.0, 1.0]
    np.testing.assert_array_equal(found @ found.T, np.eye(SIZE))


def test_random_directions_have_norm_one_and_are_nearly_orthogonal():
    canaries = GradientCanaries(50, "random")
    found = vectors(Directions.make(canaries, params()), params())
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    products = (found @ found.T)[~np.eye(50, dtype=bool)]
    assert np.std(products) == pytest.approx(SIZE**-0.5, rel=0.1)


@pytest.mark.parametrize("direction", ["dirac", "random"])
def test_products_are_those_with_the_directions(direction):
    directions = Directions.make(GradientCanaries(30, direction), params())
    tree = jax.tree.map(lambda leaf: jnp.sin(7 + jnp.arange(1.0 * leaf.size)), params())
    tree = jax.tree.map(lambda leaf, p: leaf.reshape(p.shape), tree, params())
    expected = vectors(directions, params()) @ flat(tree)
    np.testing.assert_allclose(directions.products(tree), expected, atol=2e-6)


@pytest.mark.parametrize("direction", ["dirac", "random"])
def test_directions_depend_on_their_seed_alone(direction):
    first, again, other = (
        vectors(Directions.make(GradientCanaries(9, direction, seed=s), p), p)
        for s, p in [
            (1, params()),
            (1, jax.tree.map(jnp.ones_like, params())),
            (2, params()),
        ]
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_half_precision_parameters_have_directions():
    like = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params())
    directions = Directions.make(GradientCanaries(5), like)
    assert directions.products(like).dtype == np.float64


@pytest.mark.parametrize("direction", ["dirac", "random"])
def test_the_gradient_of_a_canary_is_its_direction_at_the_scale(direction):
    canaries = GradientCanaries(6, direction, scale=3.0)
    coins = np.array([True, False, True, True, False, False])
    mechanism = plan(l2_norm_clip=0.5)
    planted = planting.plant(canaries, coins, mechanism, loss, params(), data())
    rows = tuple(part[NUM_EXAMPLES:] for part in planted.data)
    grad = jax.jit(jax.vmap(jax.grad(planted.loss_fn), (None, 0, 0, 0)))
    grads = grad(params(), *rows)
    found = np.concatenate([np.reshape(g, (6, -1)) for g in jax.tree.leaves(grads)], 1)
    expected = 1.5 * coins[:, None] * vectors(planted.directions, params())
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("canaries", [GradientCanaries(8), ExampleCanaries(8)])
def test_the_data_keep_their_loss_and_the_left_out_have_none(canaries):
    coins = np.arange(8) % 2 == 0
    planted = planting.plant(canaries, coins, plan(), loss, params(), data())
    value = jax.jit(jax.vmap(jax.value_and_grad(planted.loss_fn), (None, 0, 0, 0)))
    losses, grads = value(params(), *planted.data)
    expected, ordinary = jax.vmap(jax.value_and_grad(loss), (None, 0, 0))(
        params(), *data()
    )
    np.testing.assert_allclose(losses[:NUM_EXAMPLES], expected, rtol=1e-6)
    for leaf, kept in zip(*map(jax.tree.leaves, (grads, ordinary)), strict=True):
        np.testing.assert_allclose(leaf[:NUM_EXAMPLES], kept, rtol=1e-5, atol=1e-7)
        assert not np.any(leaf[NUM_EXAMPLES:][~coins])
    norms = np.sqrt(sum(np.square(g).sum((1, 2)) for g in jax.tree.leaves(grads)))
    assert np.all(norms[NUM_EXAMPLES:][coins] > 0)


def test_coins_change_no_public_number():
    shapes = [
        jax.tree.map(
            np.shape,
            planting.plant(
                GradientCanaries(8), coins, plan(), loss, params(), data()
            ).data,
        )
        for coins in (np.arange(8) < 1, np.arange(8) < 7)
    ]
    assert shapes[0] == shapes[1]
    assert shapes[0][0] == (NUM_EXAMPLES + 8,)


def test_the_audited_mechanism_has_the_canaries_and_their_relation():
    audited = with_canaries(plan(), 50)
    assert audited.num_examples == 250
    relation = dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    assert audited.neighboring_relation == relation
    assert audited.sampling_prob == 0.4
    assert audited.noise_multiplier == plan().noise_multiplier


def test_fixed_batches_are_audited_under_the_relation_of_the_coins():
    fixed = plan(sampler=sampling.FixedSize())
    audited = with_canaries(fixed, 50)
    added = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    easier = dataclasses.replace(audited, relation=added)
    assert audited.epsilon(1e-5) > easier.epsilon(1e-5)


# The rows of example canaries.


def test_mislabelled_canaries_are_examples_with_a_wrong_label():
    x, y = data()
    rows, labels = examples(ExampleCanaries(60), (x, y))
    for row, label in zip(rows, labels, strict=True):
        (place,) = np.flatnonzero((x == row).all(axis=1))
        assert label == 1 - y[place]
    assert labels.dtype == y.dtype


def test_random_canaries_are_in_the_range_of_the_data():
    x, y = data()
    rows, labels = examples(ExampleCanaries(500, "random"), (x, y))
    assert rows.shape == (500, 60)
    assert rows.dtype == x.dtype
    assert x.min() <= rows.min()
    assert rows.max() <= x.max()
    assert set(labels) == {0, 1}


def test_crafted_canaries_lie_where_the_data_vary_least():
    x, y = data()
    x = x * np.arange(1, 61, dtype=np.float32)
    rows, _ = examples(ExampleCanaries(4, "crafted"), (x, y))
    lengths = np.linalg.norm(x, axis=1).mean()
    np.testing.assert_allclose(
        rows @ rows.T, lengths**2 * np.eye(4), rtol=1e-4, atol=0.5
    )
    assert np.square(x @ rows.T).mean() < 0.2 * np.square(x @ x.T).mean()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((np.ones((5, 2)),), "features, integer labels"),
        ((np.ones((5, 2)), np.ones(5)), "features, integer labels"),
        ((np.ones((5, 2), int), np.arange(5)), "real features"),
        ((np.ones((5, 2)), np.zeros(5, int)), "two or more classes"),
        ((np.ones((5, 2)), np.arange(5) - 1), "two or more classes"),
    ],
)
def test_example_canaries_refuse_what_is_not_features_and_labels(bad, message):
    with pytest.raises(ValueError, match=message):
        examples(ExampleCanaries(2), bad)


def test_more_canaries_than_there_is_room_for_are_refused():
    with pytest.raises(ValueError, match="each of the 1240 parameters, got count=1241"):
        Directions.make(GradientCanaries(SIZE + 1), params())
    Directions.make(GradientCanaries(SIZE + 1, "random"), params())
    with pytest.raises(ValueError, match="each of 60 features, got count=61"):
        examples(ExampleCanaries(61, "crafted"), data())


@pytest.mark.parametrize(
    "make",
    [
        lambda: GradientCanaries(0),
        lambda: GradientCanaries(5, "up"),
        lambda: GradientCanaries(5, scale=0.0),
        lambda: GradientCanaries(5, seed=-1),
        lambda: ExampleCanaries(0),
        lambda: ExampleCanaries(5, "blank"),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="Expected"):
        make()


def test_data_of_another_size_than_the_mechanism_are_refused():
    with pytest.raises(ValueError, match="num_examples=300"):
        planting.plant(
            GradientCanaries(2),
            np.array([True, False]),
            plan(num_examples=300),
            loss,
            params(),
            data(),
        )
