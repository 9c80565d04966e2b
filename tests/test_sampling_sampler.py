"""What every sampler offers."""

import dataclasses
import itertools
import math
import tracemalloc

import dp_accounting
import jax
import numpy as np
import pytest
from draws import KEY, drawn, draws, event, inclusions, run

from dpjax.accounting import event_epsilon
from dpjax.sampling import (
    BallsInBins,
    BMinSep,
    CyclicPoisson,
    Deterministic,
    FixedSize,
    FixedSizeWithReplacement,
    IndexChunk,
    Poisson,
    RandomAllocation,
    ShuffledEpochs,
    TruncatedPoisson,
)

SAMPLERS = [
    Poisson(),
    TruncatedPoisson(33),
    CyclicPoisson(3),
    FixedSize(),
    FixedSizeWithReplacement(),
    Deterministic(),
    ShuffledEpochs(),
    BallsInBins(),
    BallsInBins(redrawn=False),
    RandomAllocation(3),
    BMinSep(3),
]
REPEATING = [Deterministic(), BallsInBins(redrawn=False)]
RANDOM = [sampler for sampler in SAMPLERS if sampler not in REPEATING]
FRUGAL = [
    *[s for s in SAMPLERS[:6] if not isinstance(s, TruncatedPoisson)],
    TruncatedPoisson(1010),
    ShuffledEpochs(),
    BMinSep(3),
]
FOR_EVER = {
    Poisson(): [[3, 6, 7, 10, 12, 14, 18, 19]],
    TruncatedPoisson(4): [[1, 9, 12, 19]],
    CyclicPoisson(3): [[3, 6, 12, 15, 18]],
    FixedSize(): [[8, 10, 11, 12, 17]],
    FixedSizeWithReplacement(): [[4, 5, 7, 8, 15]],
    Deterministic(): [[0, 1, 2, 3, 4]],
    ShuffledEpochs(): [[1, 9, 3, 18, 2]],
    BallsInBins(): [[1, 5, 9, 12, 15, 16, 19]],
    RandomAllocation(3): [[2, 5, 12, 15, 17, 18]],
    BMinSep(3): [[3, 5, 7, 9, 10, 12, 14, 17]],
}
WHOLE = [FixedSize(), FixedSizeWithReplacement(), Deterministic(), ShuffledEpochs()]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_draw_has_more_copies_than_stated_and_every_index_is_in_range(sampler):
    most = sampler.max_copies(num_examples=100, expected_batch_size=30)
    for indices in draws(sampler, 100, 30, 200):
        assert np.bincount(indices, minlength=1).max() <= most
        assert indices.dtype == np.int32
        assert np.all((indices >= 0) & (indices < 100))
    assert (most == 1) == (sampler != FixedSizeWithReplacement())


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("chunk_size", [1, 7, 30, 100, 1000])
def test_a_draw_larger_than_a_chunk_goes_into_further_chunks_and_loses_nothing(
    sampler, chunk_size
):
    whole = draws(sampler, 100, 30, 20)
    for step, expected in zip(
        run(sampler, 100, 30, 20, chunk_size=chunk_size), whole, strict=True
    ):
        np.testing.assert_array_equal(drawn(step), expected)
        assert len(step) == max(1, math.ceil(len(expected) / chunk_size))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_chunks_have_one_shape_and_their_padding_is_index_zero(sampler):
    for chunk in itertools.chain(*run(sampler, 100, 30, 20, chunk_size=8)):
        assert isinstance(chunk, IndexChunk)
        assert chunk.indices.shape == chunk.mask.shape == (8,)
        assert chunk.indices.dtype == np.int32
        assert chunk.mask.dtype == np.bool_
        assert not chunk.indices[~chunk.mask].any()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("start_step", [0, 1, 3, 4, 9, 10])
def test_a_resumed_run_sees_exactly_the_rest(sampler, start_step):
    whole = draws(sampler, 100, 30, 10)
    rest = draws(sampler, 100, 30, 10, start_step=start_step)
    assert len(rest) == 10 - start_step
    for resumed, expected in zip(rest, whole[start_step:], strict=True):
        np.testing.assert_array_equal(resumed, expected)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_steps_do_not_depend_on_how_many_follow(sampler):
    for short, long in zip(
        draws(sampler, 100, 30, 3), draws(sampler, 100, 30, 9), strict=False
    ):
        np.testing.assert_array_equal(short, long)


@pytest.mark.parametrize("sampler", RANDOM)
def test_other_keys_and_other_steps_draw_otherwise(sampler):
    keys = [[12, 345], [12, 346], [13, 345], [345, 12]]
    seen = {
        draw.tobytes()
        for key in keys
        for draw in draws(sampler, 100, 30, 5, key=np.array(key, np.uint32))
    }
    assert len(seen) == 20


@pytest.mark.parametrize("pair", list(itertools.combinations(RANDOM, 2)), ids=repr)
def test_samplers_do_not_share_their_random_numbers(pair):
    # In a step of a cyclic sampler, some have a turn and others have none.
    some, others = (inclusions(sampler, 1000, 30, 30) for sampler in pair)
    some, others = (table - table.mean(axis=0) for table in (some, others))
    if isinstance(pair[0], CyclicPoisson) or isinstance(pair[1], CyclicPoisson):
        turn = np.arange(30)[:, None] % 3 == np.arange(1000) % 3
        some, others = some[turn], others[turn]
    correlation = np.corrcoef(some.ravel(), others.ravel())[0, 1]
    assert abs(correlation) < 5 / math.sqrt(some.size)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_keys_may_be_arrays_on_a_device(sampler):
    (host,) = draws(sampler, 100, 30, 1)
    (device,) = draws(sampler, 100, 30, 1, key=jax.numpy.asarray(KEY))
    np.testing.assert_array_equal(host, device)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_steps_are_no_batches_and_spend_nothing(sampler):
    assert list(run(sampler, 100, 30, 0)) == []
    assert event(sampler, 1.0, 100, 30, 0) == dp_accounting.NoOpDpEvent()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_are_values_with_a_statement(sampler):
    assert sampler == dataclasses.replace(sampler)
    assert hash(sampler) == hash(dataclasses.replace(sampler))
    assert sampler.statement.endswith(".")


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        ({"num_examples": 0}, ValueError, "an integer >= 1"),
        ({"num_examples": 1e3}, TypeError, "an integer"),
        ({"num_examples": 2**31}, ValueError, r"at most 2\*\*31 - 1 examples"),
        ({"expected_batch_size": 101}, ValueError, "at most num_examples=100"),
        ({"expected_batch_size": 0}, ValueError, "(a number > 0|an integer >= 1)"),
        ({"expected_batch_size": -3}, ValueError, "(a number > 0|an integer >= 1)"),
        ({"expected_batch_size": math.nan}, (ValueError, TypeError), "(a fin|an int)"),
        ({"expected_batch_size": None}, TypeError, "(a real number|an integer)"),
        ({"num_steps": -1}, ValueError, "an integer >= 0"),
        ({"num_steps": 1.5}, TypeError, "an integer"),
        ({"chunk_size": 0}, ValueError, "an integer >= 1"),
        ({"start_step": -1}, ValueError, "an integer >= 0"),
        ({"start_step": 11}, ValueError, "at most num_steps=10"),
        ({"key_data": np.zeros(3, np.uint32)}, ValueError, r"key data of shape \(2,\)"),
        ({"key_data": np.zeros(2, np.int64)}, TypeError, "uint32 key data"),
        ({"key_data": 7}, TypeError, "uint32 key data"),
    ],
    ids=repr,
)
def test_bad_settings_are_refused_before_the_first_batch(
    sampler, change, error, expected
):
    settings = {
        "key_data": KEY,
        "num_examples": 100,
        "expected_batch_size": 30,
        "num_steps": 10,
        "chunk_size": 8,
        **change,
    }
    with pytest.raises(
        error, match=f"Expected {expected}.*, got .*{next(iter(change))}"
    ):
        sampler.batches(settings.pop("key_data"), **settings)


@pytest.mark.parametrize("count", [10**9, 2**31 - 1])
@pytest.mark.parametrize("sampler", FRUGAL, ids=repr)
def test_memory_follows_the_batch_and_not_the_data_set(sampler, count):
    tracemalloc.start()
    draw = draws(sampler, count, 1000, 2, chunk_size=1096, start_step=1)[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 800 < len(draw) < 1200
    assert draw.max() > count / 2 or sampler == Deterministic()
    # An order of all examples takes tables of the square root of their number.
    assert peak < (3_000_000 if sampler == ShuffledEpochs() else 500_000)


def test_a_key_draws_the_same_examples_for_ever():
    for sampler, draw in FOR_EVER.items():
        assert [d.tolist() for d in draws(sampler, 20, 5, 1)] == draw


@pytest.mark.parametrize("sampler", WHOLE)
@pytest.mark.parametrize("batch", [30.0, 29.5])
def test_batches_of_fixed_size_have_an_integer_size(sampler, batch):
    with pytest.raises(
        TypeError, match="Expected an integer, got expected_batch_size="
    ):
        run(sampler, 100, batch, 10)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("noise_multiplier", "error"),
    [(-1.0, ValueError), (math.nan, ValueError), (None, TypeError)],
)
def test_an_event_has_a_lawful_noise_multiplier(sampler, noise_multiplier, error):
    with pytest.raises(error, match=r"Expected a .*, got noise_multiplier="):
        event(sampler, noise_multiplier, 100, 30, 1)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_noise_spends_everything(sampler):
    spent = event(sampler, 0.0, 100, 30, 1)
    assert event_epsilon(spent, 1e-5, relation=sampler.relation) == math.inf


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_chunk_takes_nearly_every_draw_whole(sampler):
    size = sampler.chunk_size(num_examples=1000, expected_batch_size=30)
    chunks = [len(step) for step in run(sampler, 1000, 30, 300, chunk_size=size)]
    assert np.mean(chunks) < 1.02
    assert size < 60


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_example_takes_part_as_often_as_the_probability_says(sampler):
    q = sampler.sampling_prob(num_examples=100, expected_batch_size=30)
    if q is None:
        return
    steps = 3000
    taken = (inclusions(sampler, 100, 30, steps) > 0).sum()
    turns = steps * 100 / getattr(sampler, "period", 1)
    if isinstance(sampler, BMinSep):
        q = 0.3  # That of the others is of an example that does not rest.
    if isinstance(sampler, TruncatedPoisson):
        assert taken < turns * q
    else:
        assert taken / turns == pytest.approx(q, abs=5 * math.sqrt(q / turns))
