"""Poisson sampling with a rest after every step that an example is in."""

import math
import tracemalloc

import dp_accounting
import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from draws import KEY, draws, event, inclusions, two_sided
from hypothesis import given, settings
from hypothesis import strategies as st

from dpjax.sampling import BMinSep, Poisson, streams


@settings(max_examples=60)
@given(st.integers(4, 60), st.integers(1, 8), st.floats(0.05, 1.0), st.integers(1, 30))
def test_nobody_comes_again_before_the_separation(count, rest, share, steps):
    table = inclusions(BMinSep(rest), count, share * count / rest, steps)
    sums = np.cumsum(np.pad(table, ((rest, 0), (0, 0))), axis=0)
    windows = sums[rest:] - sums[:-rest]
    assert windows.max() <= 1


def gaps(table):
    """Return the distances of one example's steps, all examples' together."""
    return np.concatenate([np.diff(np.flatnonzero(column)) for column in table.T])


def fits(found, first, p):
    """Tell whether gaps, beyond the first ones, are geometric with rate p."""
    cells = np.minimum(found - first, 10)
    rates = np.append(p * (1 - p) ** np.arange(10), (1 - p) ** 10)
    expected = found.size * rates
    counts = np.bincount(cells, minlength=11)
    return two_sided(((counts - expected) ** 2 / expected).sum(), 10) > 1e-3


def test_after_its_rest_an_example_enters_with_the_stated_probability():
    sampler = BMinSep(3)
    p = sampler.sampling_prob(num_examples=300, expected_batch_size=50)
    assert p == pytest.approx((1 / 6) / (1 - 2 / 6))
    found = gaps(inclusions(sampler, 300, 50, 1000))
    assert found.min() == 3
    assert fits(found, 3, p)
    assert not fits(found, 3, 1.5 * p)


def test_every_step_has_the_expected_size_from_the_first_on():
    runs = np.array(
        [
            [
                len(draw)
                for draw in draws(
                    BMinSep(4), 300, 50, 8, key=np.array([key, 0], np.uint32)
                )
            ]
            for key in range(400)
        ]
    )
    # Given the throws before, binomial: its variance is at most 50.
    np.testing.assert_allclose(runs.mean(axis=0), 50, atol=5 * math.sqrt(50 / 400))


def test_the_start_is_the_stationary_law_and_no_other():
    # Stationary, the first step of each example is later than j with probability
    # (1 - j q) up to j = b - 1: uniform over the first b steps, and p after them.
    first = inclusions(BMinSep(4), 40_000, 4000, 4, chunk_size=50_000).argmax(axis=0)
    table = inclusions(BMinSep(4), 40_000, 4000, 4, chunk_size=50_000)
    found = np.bincount(first[table.any(axis=0)], minlength=4)
    squares = ((found - 4000) ** 2 / 4000).sum()
    assert two_sided(squares, 4) > 1e-3
    # All fresh, examples would crowd in the first step: p is 1 / 6 and not 1 / 10.
    assert abs(found[0] - 40_000 / 6) > 10 * math.sqrt(4000)


def test_examples_are_drawn_independently():
    table = inclusions(BMinSep(3), 400, 60, 1000)
    table = table - table.mean()
    together = (table[:, 1:] * table[:, :-1]).mean() / (table**2).mean()
    assert abs(together) < 5 / math.sqrt(table.size)


def test_no_rest_is_poisson_sampling():
    assert event(BMinSep(1), 1.0, 100, 5, 9) == event(Poisson(), 1.0, 100, 5, 9)


def test_a_rest_that_takes_all_time_makes_everybody_take_turns():
    table = inclusions(BMinSep(4), 100, 25, 16)
    np.testing.assert_array_equal(table[:4], table[4:8])
    assert np.all(table.reshape(4, 4, 100).sum(axis=1) == 1)


@pytest.mark.parametrize("steps", [1, 7])
def test_steps_spend_no_more_than_poisson_samples_of_whoever_is_free(steps):
    spent = event(BMinSep(3), 1.5, 300, 50, steps)
    step = dp_accounting.PoissonSampledDpEvent(0.25, dp_accounting.GaussianDpEvent(1.5))
    assert spent.count == steps
    assert spent.event.event == step.event
    assert spent.event.sampling_probability == pytest.approx(0.25)
    assert BMinSep(3).relation is NeighboringRelation.ADD_OR_REMOVE_ONE


@pytest.mark.parametrize(
    ("rest", "error"), [(0, ValueError), (-2, ValueError), (1.5, TypeError)]
)
def test_a_separation_is_a_whole_number(rest, error):
    with pytest.raises(error, match="min_separation="):
        BMinSep(rest)


def test_a_separation_that_leaves_no_room_is_refused():
    with pytest.raises(ValueError, match=r"Expected at most .* = 4, got min_sep.*=5"):
        BMinSep(5).sampling_prob(num_examples=100, expected_batch_size=25)


@pytest.mark.parametrize("rest", [2, 50])
def test_memory_follows_the_batches_that_rest_and_not_the_data_set(rest):
    tracemalloc.start()
    sampler = BMinSep(rest)
    (draw,) = draws(sampler, 10**9, 100, 200, chunk_size=128, start_step=199)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 50 < len(draw) < 150
    assert peak < 20_000 + 100 * 40 * rest


def written_out(count, p, rest, num_steps):
    """Return who enters which step, from a table of all examples' first free steps."""
    free = np.zeros(count, np.int32)
    start = streams.stream(KEY, b"b-min-sep start", 0)
    resting = streams.heads(start, count, (rest - 1) * p / (1 + (rest - 1) * p))
    free[resting] = 1 + streams.integers(start, rest - 1, resting.size)
    for step in range(num_steps):
        thrown = streams.heads(streams.stream(KEY, b"b-min-sep", step), count, p)
        drawn = thrown[free[thrown] <= step]
        free[drawn] = step + rest
        yield drawn


@settings(max_examples=30)
@given(st.integers(8, 60), st.integers(2, 8), st.floats(0.05, 0.99))
def test_whoever_rests_is_kept_and_nobody_else(count, rest, share):
    batch = share * count / rest
    p = BMinSep(rest).sampling_prob(num_examples=count, expected_batch_size=batch)
    expected = written_out(count, p, rest, 40)
    for draw, want in zip(
        draws(BMinSep(rest), count, batch, 40), expected, strict=True
    ):
        np.testing.assert_array_equal(draw, want)


def test_steps_can_be_asked_for_in_any_order():
    settings = np.array([12, 345], np.uint32), 100, 10
    ask = BMinSep(4)._draws(*settings)
    forward = [ask(step) for step in range(6)]
    for step in (5, 0, 3, 2):
        np.testing.assert_array_equal(ask(step), forward[step])
