"""Bounds on error rates at all thresholds at once."""

import numpy as np
import pytest
from scipy import stats

from dpjax.auditing import bands


@pytest.mark.parametrize("num_scores", [1, 2, 7, 50, 400])
@pytest.mark.parametrize("significance", [0.3, 0.05])
def test_the_level_makes_all_bounds_hold_with_the_stated_probability(
    num_scores, significance
):
    each, trials = bands.level(num_scores, significance), 5000
    grid = bands.grid_of(num_scores)
    limits = stats.beta.isf(each, grid, num_scores - grid + 1)
    uniform = np.sort(np.random.default_rng(0).random((trials, num_scores)), axis=1)
    failed = (uniform[:, grid - 1] > limits).any(axis=1).sum()
    assert stats.binom.isf(1 - 1e-4, trials, significance) <= failed
    assert failed <= stats.binom.isf(1e-4, trials, significance)


def test_two_scores_have_the_closed_form():
    # P(U_(1) <= a, U_(2) <= b) = 2 a b - a^2 for a <= b.
    a, b = stats.beta.isf(0.1, [1, 2], [2, 1])
    assert bands.all_hold(2, 0.1) == pytest.approx(2 * a * b - a**2, rel=1e-12)


def test_it_is_between_one_bound_and_bonferroni():
    grid = bands.grid_of(1000)
    assert 0.05 / grid.size < bands.level(1000, 0.05) < 0.05
    assert bands.level(10**6, 0.05) == pytest.approx(0.05 / bands.grid_of(10**6).size)


def test_bounds_are_at_least_the_rates_and_rise_with_the_counts():
    counts = np.arange(301)
    bounds = bands.error_bounds(counts, 300, 0.05)
    assert np.all(bounds >= counts / 300)
    assert np.all(np.diff(bounds) >= 0)
    assert bounds[-1] == 1.0


@pytest.mark.parametrize("atoms", [2, 30])
def test_scores_with_ties_are_bounded_too(atoms):
    # Whole numbers below `atoms`, all as likely: P(score above t) is known.
    rng, trials, size = np.random.default_rng(1), 2000, 60
    failed = 0
    for _ in range(trials):
        scores = rng.integers(0, atoms, size)
        thresholds = np.unique(scores)
        counts = (scores[:, None] > thresholds).sum(axis=0)
        rates = (atoms - 1 - thresholds) / atoms
        failed += np.any(rates > bands.error_bounds(counts, size, 0.1))
    assert failed <= stats.binom.isf(1e-4, trials, 0.1)
