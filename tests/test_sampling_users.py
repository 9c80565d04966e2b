"""Units that are users."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import KEY, run, two_sided
from hypothesis import given
from hypothesis import strategies as st

from dpjax import clipping
from dpjax.sampling import (
    BallsInBins,
    FixedSize,
    Poisson,
    group_by_user,
    mean_loss,
)

# User 0 has examples 0, 3, 4; user 1 has 1; user 2 has 2, 5, 6, 7, 8.
IDS = np.array([10, 20, 30, 10, 10, 30, 30, 30, 30])
OWN = [{0, 3, 4}, {1}, {2, 5, 6, 7, 8}]


def batches(users, most, *, sampler=None, steps=20, batch=2, start=0, chunk_size=2):
    chosen = run(
        sampler or Poisson(),
        users.num_users,
        batch,
        steps,
        chunk_size=chunk_size,
        start_step=start,
    )
    return users.batches(chosen, KEY, max_examples_per_user=most, start_step=start)


@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=40),
    st.integers(1, 6),
    st.sampled_from([Poisson(), FixedSize(), BallsInBins()]),
)
def test_a_row_has_examples_of_its_user_alone_at_most_so_many_and_none_twice(
    ids, most, sampler
):
    users = group_by_user(ids)
    steps = batches(users, most, sampler=sampler, batch=users.num_users, steps=3)
    for chunk in itertools.chain(*steps):
        assert chunk.indices.shape == chunk.example_mask.shape == (2, most)
        for user, real, row, mask in zip(*chunk, strict=True):
            taken = row[mask]
            if not real:
                assert not taken.size
                continue
            own = np.flatnonzero(np.array(ids) == users.ids[user])
            assert set(row) <= set(own)
            assert len(set(taken)) == taken.size == min(most, own.size)


def test_users_come_as_their_sampler_draws_them():
    users = group_by_user(IDS)
    plain = run(Poisson(), 3, 2, 20, chunk_size=2)
    for chunks, chosen in zip(batches(users, 2), plain, strict=True):
        for found, drawn in zip(chunks, chosen, strict=True):
            np.testing.assert_array_equal(found.users, drawn.indices)
            np.testing.assert_array_equal(found.mask, drawn.mask)


@pytest.mark.parametrize("most", [2, 3])
def test_all_choices_of_a_users_examples_are_as_likely(most):
    users = group_by_user(IDS)
    # User 2 has 5 examples: 10 choices of 2 or 3.
    choices = list(itertools.combinations(sorted(OWN[2]), most))
    counts = dict.fromkeys(choices, 0)
    for (chunk,) in batches(users, most, batch=3, steps=4000, chunk_size=3):
        (row,) = np.flatnonzero(chunk.users == 2)
        counts[tuple(sorted(chunk.indices[row].tolist()))] += 1
    found = np.array(list(counts.values()))
    squares = ((found - 400) ** 2 / 400).sum()
    assert two_sided(squares, 9) > 1e-3
    # A choice that is half more likely than the others would show.
    biased = np.append(600, np.full(9, 3400 / 9))
    assert two_sided(((found - biased) ** 2 / biased).sum(), 9) < 1e-3


@pytest.mark.parametrize("start", [1, 7, 19])
def test_a_resumed_run_sees_exactly_the_rest(start):
    users = group_by_user(IDS)
    whole = list(batches(users, 2))[start:]
    for chunks, others in zip(batches(users, 2, start=start), whole, strict=True):
        for one, other in zip(chunks, others, strict=True):
            jax.tree.map(np.testing.assert_array_equal, one, other)


def test_chunks_of_another_size_hold_the_same_examples():
    users = group_by_user(IDS)

    def rows(chunk_size):
        steps = batches(users, 2, batch=3, steps=10, chunk_size=chunk_size)
        return [
            np.concatenate([chunk.indices[chunk.mask] for chunk in chunks])
            for chunks in steps
        ]

    for small, large in zip(rows(1), rows(3), strict=True):
        np.testing.assert_array_equal(small, large)


def loss_fn(params, x, y):
    return 0.5 * (params @ x - y) ** 2


def test_a_user_is_clipped_as_one_and_moves_the_sum_by_one_clip_norm():
    rng = np.random.default_rng(1)
    data = rng.normal(size=(9, 4)).astype(np.float32), rng.normal(size=9)
    users, params = group_by_user(IDS), jnp.ones(4)
    blocks, mask = users.blocks(data, KEY, max_examples_per_user=5)
    grad = clipping.clipped_grad(mean_loss(loss_fn), 0.1)
    everybody = grad(params, blocks, mask)
    expected = np.zeros(4)
    for own in OWN:
        rows = np.array(sorted(own))
        mean = jax.vmap(jax.grad(loss_fn), (None, 0, 0))(
            params, data[0][rows], data[1][rows]
        ).mean(axis=0)
        expected += mean * min(1, 0.1 / np.linalg.norm(mean))
    np.testing.assert_allclose(everybody.sum, expected, rtol=1e-4, atol=1e-6)
    without = grad(params, blocks, mask, mask=np.array([True, True, False]))
    moved = np.linalg.norm(everybody.sum - without.sum)
    assert 0.09 < moved <= 0.1 * (1 + 1e-5)
    # Clipped one by one, five examples of one user would have moved it by more.
    single = clipping.clipped_grad(loss_fn, 0.1)
    apart = single(params, *(leaf[sorted(OWN[2])] for leaf in data)).sum
    assert np.linalg.norm(apart) > 0.1 * (1 + 1e-3)


def test_a_place_without_an_example_counts_nothing():
    params, one = jnp.ones(4), np.arange(4.0)
    blocks = np.stack([one, one + 7, one - 9]), np.array([1.0, 2.0, 3.0])
    alone = mean_loss(loss_fn)(params, blocks, np.array([True, False, False]))
    np.testing.assert_allclose(alone, loss_fn(params, one, 1.0), rtol=1e-6)
    nobody = mean_loss(loss_fn)(params, blocks, np.zeros(3, bool))
    assert nobody == 0
    single = mean_loss(lambda p, x: p @ x)(params, blocks[0], np.ones(3, bool))
    np.testing.assert_allclose(single, blocks[0].sum() / 3, rtol=1e-6)


def test_blocks_hold_a_users_own_examples():
    users = group_by_user(IDS)
    blocks, mask = users.blocks(np.arange(9), KEY, max_examples_per_user=2)
    assert blocks.shape == mask.shape == (3, 2)
    for row, places, own in zip(blocks, mask, OWN, strict=True):
        assert set(row) <= own
        assert places.sum() == min(2, len(own))


@pytest.mark.parametrize("ids", [[], [[1, 2]], 7])
def test_every_example_has_one_user(ids):
    with pytest.raises(ValueError, match="Expected one user for each example"):
        group_by_user(ids)


@pytest.mark.parametrize(("most", "error"), [(0, ValueError), (1.5, TypeError)])
def test_the_most_examples_are_a_whole_number(most, error):
    with pytest.raises(error, match="max_examples_per_user="):
        batches(group_by_user(IDS), most)


def test_data_of_other_examples_are_refused():
    with pytest.raises(ValueError, match="data of the 9 examples"):
        group_by_user(IDS).blocks(np.arange(8), KEY, max_examples_per_user=2)
