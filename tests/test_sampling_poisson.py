"""Poisson sampling, and Poisson samples that are cut."""

import math

import dp_accounting
import numpy as np
import pytest
from draws import drawn, draws, event, inclusions, run, two_sided
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dpjax.accounting import event_epsilon
from dpjax.sampling import Poisson, TruncatedPoisson, default_chunk_size


def rate_p_value(table, q):
    """Test that each example enters a binomial number of steps of probability q."""
    num_steps, num_examples = table.shape
    variance = num_steps * q * (1 - q)
    squares = (table.sum(axis=0) - num_steps * q) ** 2 / variance
    return two_sided(squares.sum(), num_examples)


@pytest.mark.parametrize("q", [0.01, 0.1, 0.5, 0.9])
def test_each_example_enters_with_the_stated_probability(q):
    table = inclusions(Poisson(), 200, 200 * q, 4000)
    assert rate_p_value(table, q) > 1e-3
    assert rate_p_value(table, q * 2 / 3) < 1e-6
    assert rate_p_value(table, min(q * 3 / 2, 0.99)) < 1e-6


def pairs_p_value(table, q):
    """Test that no two examples attract or avoid each other."""
    scores = (table - q) / math.sqrt(q * (1 - q))
    covariances = scores.T @ scores / math.sqrt(len(table))
    pairs = covariances[np.triu_indices_from(covariances, 1)]
    return two_sided((pairs**2).sum(), pairs.size)


def test_examples_enter_independently_of_each_other():
    assert pairs_p_value(inclusions(Poisson(), 40, 8, 5000), 0.2) > 1e-3


def test_batches_of_fixed_size_do_not_pass_for_independent_ones():
    # Power: without replacement, pairs have correlation -1 / (num_examples - 1).
    rng = np.random.default_rng(0)
    table = np.stack([rng.permuted(np.arange(40) < 8) for _ in range(5000)])
    assert pairs_p_value(table, 0.2) < 1e-6


def test_steps_are_independent_of_each_other():
    table = inclusions(Poisson(), 100, 20, 5000)
    scores = (table - 0.2) / 0.4
    for lag in (1, 2, 7):
        correlation = (scores[lag:] * scores[:-lag]).mean()
        assert abs(correlation) < 5 / math.sqrt(scores[lag:].size)


def sizes_p_value(sizes, num_examples, q):
    """Test that sizes are binomial, over bins of at least five expected draws."""
    law = stats.binom(num_examples, q)
    edges = np.unique(law.ppf(np.linspace(0.01, 0.99, 25)))
    expected = np.diff(law.cdf([-1, *edges, num_examples])) * len(sizes)
    bins = np.searchsorted(edges, sizes)
    return stats.chisquare(np.bincount(bins, minlength=len(expected)), expected).pvalue


@pytest.mark.parametrize(("num_examples", "q"), [(50, 0.1), (1000, 0.02), (300, 0.5)])
def test_the_size_of_a_draw_is_binomial(num_examples, q):
    table = draws(Poisson(), num_examples, num_examples * q, 4000)
    sizes = np.array([len(draw) for draw in table])
    assert sizes_p_value(sizes, num_examples, q) > 1e-3
    assert sizes_p_value(sizes, num_examples, q * 2 / 3) < 1e-6
    assert sizes_p_value(sizes, num_examples, q * 3 / 2) < 1e-6


def test_position_does_not_matter():
    # The first and the last example have no neighbour on one side.
    table = inclusions(Poisson(), 5, 1.5, 20_000)
    error = math.sqrt(0.3 * 0.7 / 20_000)
    np.testing.assert_allclose(table.mean(axis=0), 0.3, atol=5 * error)


def test_an_empty_draw_is_a_legal_step():
    steps = list(run(Poisson(), 1000, 0.01, 50, chunk_size=8))
    assert len(steps) == 50
    empty = [step for step in steps if not drawn(step).size]
    assert len(empty) > 40
    for (chunk,) in empty:
        assert chunk.indices.shape == (8,)
        assert not chunk.mask.any()


def test_probability_one_takes_every_example_every_time():
    for draw in draws(Poisson(), 100, 100, 3):
        np.testing.assert_array_equal(draw, np.arange(100))
    assert Poisson().sampling_prob(num_examples=100, expected_batch_size=100) == 1.0


@given(st.integers(1, 500), st.floats(1e-6, 1.0), st.integers(0, 2**40))
def test_any_draw_ascends_and_stays_in_range(num_examples, q, start_step):
    (draw,) = draws(
        Poisson(), num_examples, q * num_examples, start_step + 1, start_step=start_step
    )
    assert np.all(np.diff(draw) > 0)
    assert not draw.size or (draw[0] >= 0 and draw[-1] < num_examples)


def test_poisson_spends_the_published_epsilon():
    # Noise 1, q = 0.01, 1000 steps, delta 1e-5.
    spent = event(Poisson(), 1.0, 100_000, 1000, 1000)
    assert event_epsilon(spent, 1e-5) == pytest.approx(1.82824, abs=1e-5)


def test_poisson_with_probability_one_spends_plain_gaussians():
    spent = event_epsilon(event(Poisson(), 2.0, 100, 100, 9), 1e-5)
    plain = event_epsilon(dp_accounting.GaussianDpEvent(2.0 / 3.0), 1e-5)
    assert spent == pytest.approx(float(plain), rel=1e-9)


# Cut samples.


def test_no_sample_is_larger_than_the_most_and_smaller_ones_are_whole():
    sizes = [len(draw) for draw in draws(TruncatedPoisson(22), 200, 20, 2000)]
    assert max(sizes) == 22
    law = stats.binom(200, 0.1)
    share = np.mean(np.array(sizes) == 22)
    expected = law.sf(21)
    assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / 2000)
    below = [size for size in sizes if size < 22]
    mean = np.arange(22) @ law.pmf(range(22)) / law.cdf(21)
    assert np.mean(below) == pytest.approx(mean, abs=5 * 4.3 / math.sqrt(len(below)))


def test_whoever_is_kept_is_any_as_likely_as_any_other():
    table = inclusions(TruncatedPoisson(5), 20, 10, 4000)
    counts = table.sum(axis=0)
    expected = counts.sum() / 20
    # Fixed size makes them vary a little less: (1 - 5 / 20) of a Poisson law's.
    assert two_sided(((counts - expected) ** 2 / (0.75 * expected)).sum(), 19) > 1e-3


def test_a_most_that_is_never_reached_changes_no_account():
    cut, whole = (
        event_epsilon(event(sampler, 1.0, 1000, 10, 100), 1e-5)
        for sampler in (TruncatedPoisson(60), Poisson())
    )
    assert cut == pytest.approx(float(whole), rel=1e-4)


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError)]
)
def test_the_most_is_a_whole_number(size, error):
    with pytest.raises(error, match="max_batch_size="):
        TruncatedPoisson(size)


# The size of a chunk.


@pytest.mark.parametrize(
    ("num_examples", "batch"),
    [(1000, 1), (1000, 10), (4000, 1000), (60_000, 1000), (10**6, 256), (100, 3)],
)
def test_a_default_chunk_holds_nearly_every_draw_and_pads_little(num_examples, batch):
    size = default_chunk_size(num_examples, batch)
    assert size % 8 == 0
    assert stats.binom.sf(size, num_examples, batch / num_examples) < 0.005
    assert size <= batch + 3 * math.sqrt(batch) + 9


@pytest.mark.parametrize(("num_examples", "batch"), [(4000, 1000), (60_000, 1000)])
def test_a_default_chunk_is_near_the_cheapest_that_takes_a_typical_draw(
    num_examples, batch
):
    law = stats.binom(num_examples, batch / num_examples)

    def slots(size):
        return size * (1 + law.sf(np.arange(1, 20) * size).sum())

    cheapest = min(slots(size) for size in range(batch + 8, 2 * batch, 8))
    assert slots(default_chunk_size(num_examples, batch)) < 1.05 * cheapest


@pytest.mark.parametrize("num_examples", [1, 5, 100])
def test_a_default_chunk_is_never_larger_than_the_data(num_examples):
    assert default_chunk_size(num_examples, num_examples) == num_examples
    assert default_chunk_size(num_examples, 0.9 * num_examples) == num_examples


def test_a_default_chunk_of_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="Expected at most num_examples=10, got exp"):
        default_chunk_size(10, 11)


def test_a_chunk_holds_every_sample_that_is_cut():
    options = {"num_examples": 1000, "expected_batch_size": 20}
    assert TruncatedPoisson(30).chunk_size(**options) == 30
    assert TruncatedPoisson(3000).chunk_size(**options) == 1000
