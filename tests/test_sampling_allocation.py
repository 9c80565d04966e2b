"""So many random steps of a cycle for each example, and no others."""

import itertools
import math
import tracemalloc

import dp_accounting
import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from draws import draws, event, inclusions, two_sided
from hypothesis import given, settings
from hypothesis import strategies as st

from dpjax._events import RandomAllocationDpEvent
from dpjax.sampling import BallsInBins, RandomAllocation, allocation

GAUSSIAN = dp_accounting.GaussianDpEvent


@settings(max_examples=60)
@given(st.integers(1, 80), st.floats(0.05, 1.0), st.integers(1, 6))
def test_everybody_is_in_exactly_so_many_steps_of_each_cycle(count, share, size):
    batch = max(share * count, 1e-2)
    sampler = RandomAllocation(size)
    length = sampler.cycle_length(num_examples=count, expected_batch_size=batch)
    table = inclusions(sampler, count, batch, 3 * length)
    assert np.all(table.reshape(3, length, count).sum(axis=1) == size)
    assert table.max() == 1


@pytest.mark.parametrize(("count", "batch"), [(100, 30), (100, 100), (7, 1), (50, 7.5)])
def test_an_epoch_has_everybody_in_exactly_one_step(count, batch):
    length = math.ceil(count / batch)
    table = inclusions(BallsInBins(), count, batch, 5 * length)
    assert np.all(table.reshape(5, length, count).sum(axis=1) == 1)


def law_fits(table, cells, rates):
    """Tell whether the frequencies of outcomes, one an example a cycle, fit rates."""
    counts = np.bincount(table, minlength=cells)
    expected = table.size * rates
    squares = ((counts - expected) ** 2 / expected).sum()
    return two_sided(squares, cells - 1) > 1e-3


def test_all_steps_of_an_epoch_are_as_likely_and_none_by_half_more():
    where = inclusions(BallsInBins(), 500, 100, 200).reshape(40, 5, 500).argmax(axis=1)
    assert law_fits(where.ravel(), 5, np.full(5, 0.2))
    biased = np.array([0.3, 0.175, 0.175, 0.175, 0.175])
    assert not law_fits(where.ravel(), 5, biased)


@pytest.mark.parametrize("size", [2, 3])
def test_all_sets_of_steps_are_as_likely(size):
    # 5 steps a cycle: 10 sets of 2 or of 3.
    sampler, cycles = RandomAllocation(size), 60
    taken = inclusions(sampler, 200, size * 200 / 5, 5 * cycles).reshape(cycles, 5, 200)
    codes = (taken * 2 ** np.arange(5)[:, None]).sum(axis=1).astype(int).ravel()
    sets = [sum(2**i for i in s) for s in itertools.combinations(range(5), size)]
    which = np.searchsorted(np.sort(sets), codes)
    assert law_fits(which, 10, np.full(10, 0.1))
    half_more = np.append(0.15, np.full(9, 0.85 / 9))
    assert not law_fits(which, 10, half_more)


@pytest.mark.parametrize("sampler", [BallsInBins(), RandomAllocation(2)])
def test_examples_and_cycles_are_drawn_independently(sampler):
    length = sampler.cycle_length(num_examples=400, expected_batch_size=100)
    table = inclusions(sampler, 400, 100, 100 * length).reshape(100, length, 400)
    first = table[:, 0] - table[:, 0].mean()
    scale = (first**2).mean()
    neighbours = (first[:, 1:] * first[:, :-1]).mean() / scale
    cycles = (first[1:] * first[:-1]).mean() / scale
    assert abs(neighbours) < 5 / math.sqrt(first.size)
    assert abs(cycles) < 5 / math.sqrt(first.size)


def test_the_size_of_a_batch_is_binomial():
    sizes = np.array([len(draw) for draw in draws(BallsInBins(), 400, 100, 2000)])
    spread = ((sizes - 100) ** 2).mean() / (400 * 0.25 * 0.75)
    # Sizes of one epoch sum to 400: three of four are free.
    assert spread == pytest.approx(1.0, abs=5 * math.sqrt(2 / 1500))


def test_throws_that_are_kept_lie_an_epoch_apart():
    table = inclusions(BallsInBins(redrawn=False), 100, 25, 12)
    np.testing.assert_array_equal(table[:4], table[4:8])
    np.testing.assert_array_equal(table[:4], table[8:])
    again = inclusions(BallsInBins(), 100, 25, 12)
    assert not np.array_equal(again[:4], again[4:8])


@pytest.mark.parametrize("length", [1, 3, 49, 60, 1001])
def test_a_batch_that_is_a_share_of_the_data_makes_a_cycle_of_that_length(length):
    sizes = {"num_examples": 60_000, "expected_batch_size": 60_000 / length}
    assert BallsInBins().cycle_length(**sizes) == length
    assert RandomAllocation(4).cycle_length(**sizes) == 4 * length
    assert BallsInBins().sampling_prob(**sizes) == 1 / length


def test_a_rest_makes_a_cycle_longer_and_its_batches_smaller():
    sizes = {"num_examples": 100, "expected_batch_size": 30}
    assert BallsInBins().cycle_length(**sizes) == 4
    assert BallsInBins().sampling_prob(**sizes) == 0.25
    assert RandomAllocation(3).cycle_length(**sizes) == 10


@pytest.mark.parametrize(("steps", "cycles"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2)])
def test_a_cycle_begun_is_spent(steps, cycles):
    spent = event(BallsInBins(), 1.5, 100, 25, steps)
    if not steps:
        assert spent == dp_accounting.NoOpDpEvent()
        return
    step = RandomAllocationDpEvent(4, 1, GAUSSIAN(1.5))
    assert spent == dp_accounting.SelfComposedDpEvent(step, cycles)
    several = event(RandomAllocation(3), 1.5, 100, 25, 3 * steps)
    step = RandomAllocationDpEvent(12, 3, GAUSSIAN(1.5))
    assert several == dp_accounting.SelfComposedDpEvent(step, cycles)


@pytest.mark.parametrize(("steps", "cycles"), [(1, 1), (4, 1), (5, 2), (36, 9)])
def test_throws_that_are_kept_spend_one_release_with_less_noise(steps, cycles):
    spent = event(BallsInBins(redrawn=False), 1.5, 100, 25, steps)
    noise = GAUSSIAN(1.5 / math.sqrt(cycles))
    step = RandomAllocationDpEvent(4, 1, noise)
    assert spent == dp_accounting.SelfComposedDpEvent(step, 1)
    none = event(BallsInBins(redrawn=False), 1.5, 100, 25, 0)
    assert none == dp_accounting.NoOpDpEvent()


@pytest.mark.parametrize("sampler", [BallsInBins(), RandomAllocation(2)])
def test_who_else_is_there_does_not_matter(sampler):
    assert sampler.relation is NeighboringRelation.ADD_OR_REMOVE_ONE


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (-2, ValueError), (1.5, TypeError)]
)
def test_participations_are_a_whole_number(size, error):
    with pytest.raises(error, match="total_participations="):
        RandomAllocation(size)


def test_whether_throws_are_kept_is_true_or_false():
    with pytest.raises(TypeError, match="redrawn='no'"):
        BallsInBins(redrawn="no")


@pytest.mark.parametrize("size", [1, 4])
def test_memory_follows_the_data_set_and_not_its_steps(size):
    # 2000 steps of 100 examples each: a table of them all would take 4e8 places.
    count = 200_000
    tracemalloc.start()
    sampler = RandomAllocation(size)
    (draw,) = draws(sampler, count, 100, 1, chunk_size=128)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 50 < len(draw) < 150
    assert peak < 40 * size * count


@pytest.mark.parametrize("sampler", [BallsInBins(), RandomAllocation(3)])
@pytest.mark.parametrize("held", [1, 100, 1000])
def test_a_cycle_drawn_again_for_some_of_its_steps_is_the_same(
    monkeypatch, sampler, held
):
    whole = draws(sampler, 500, 20, 120)
    monkeypatch.setattr(allocation, "_HELD", held)
    for draw, want in zip(draws(sampler, 500, 20, 120), whole, strict=True):
        np.testing.assert_array_equal(draw, want)
    for step in (3, 70, 119):
        (draw,) = draws(sampler, 500, 20, step + 1, start_step=step)
        np.testing.assert_array_equal(draw, whole[step])


@pytest.mark.parametrize("size", [1, 4])
def test_memory_follows_the_participations_that_are_kept(monkeypatch, size):
    monkeypatch.setattr(allocation, "_HELD", 10_000)
    monkeypatch.setattr(allocation, "_BLOCK", 4096)
    peaks = []
    for count in (10**5, 10**6):
        tracemalloc.start()
        (draw,) = draws(RandomAllocation(size), count, 100, 1, chunk_size=128)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert 50 < len(draw) < 150
    # What is left to grow is the number of blocks, each with its array's head.
    assert peaks[1] < peaks[0] + 900 / 4096 * 10**6


@pytest.mark.slow
def test_a_thousand_million_examples_are_allocated_in_bounded_memory():
    tracemalloc.start()
    draw, after = draws(BallsInBins(), 10**9, 1000, 2, chunk_size=1256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 800 < len(draw) < 1200
    assert not set(draw) & set(after)
    assert peak < 300e6
