"""Bounds from scores and counts: known values, coverage, power, hostile input."""

import copy
import pickle

import dp_accounting
import numpy as np
import pytest
from scipy import stats

from dpjax.auditing import (
    LowerBound,
    credible_interval,
    epsilon_from_counts,
    epsilon_from_scores,
)

RATIOS = ("katz", "adjusted_log", "bailey", "inverse_sinh")


def from_counts(counts, delta=0.0, significance=0.05, **options):
    return epsilon_from_counts(
        *counts, delta=delta, significance=significance, **options
    )


@pytest.mark.parametrize(
    ("counts", "delta", "significance", "expected"),
    [
        ((500, 500, 0, 500), 0, 0.01, 4.5419),
        ((10, 10, 0, 10), 0, 0.05, 0.8072),
        ((100, 100, 0, 100), 0, 0.05, 3.2813),
        ((1000, 1000, 0, 1000), 0, 0.05, 5.6006),
        ((10**5, 10**5, 0, 10**5), 0, 0.05, 10.2076),
        ((50, 100, 5, 100), 1e-5, 0.05, 1.26131),
        ((80, 100, 10, 100), 1e-5, 0.05, 1.39090),
        ((300, 1000, 10, 1000), 1e-5, 0.05, 2.69711),
        ((990, 1000, 10, 1000), 1e-5, 0.05, 3.98164),
        ((900, 1000, 600, 1200), 0, 0.05, 1.365656),
    ],
)
def test_clopper_pearson_bounds_are_the_published_ones(
    counts, delta, significance, expected
):
    found = from_counts(counts, delta, significance)
    assert found == pytest.approx(expected, abs=6e-5)
    # Calling everybody else a member is the same test, from the other side.
    tp, n_in, fp, n_out = counts
    mirrored = (n_out - fp, n_out, n_in - tp, n_in)
    assert from_counts(mirrored, delta, significance) == pytest.approx(float(found))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((50, 100, 5, 100), 4.14475),
        ((80, 100, 10, 100), 6.92721),
        ((300, 1000, 10, 1000), 6.95197),
        ((990, 1000, 10, 1000), 25.87521),
        ((100, 100, 0, 100), 21.12),
        ((10_000, 10_000, 0, 10_000), 50.80),
    ],
)
def test_gaussian_bounds_are_the_published_ones(counts, expected):
    found = from_counts(counts, 1e-5, method="gdp")
    assert found == pytest.approx(expected, rel=3e-4)


@pytest.mark.parametrize(
    ("counts", "ratios"),
    [
        ((473, 984, 755, 1705), (1.01166194, 1.01189079, 1.01148934, 1.01167669)),
        (
            (1000, 1010, 10, 10_010),
            (589.27335593, 568.32659563, 613.58766147, 592.63264572),
        ),
    ],
)
def test_ratios_have_the_intervals_of_another_implementation(counts, ratios):
    found = [np.exp(from_counts(counts, method=method)) for method in RATIOS]
    np.testing.assert_allclose(found, ratios, rtol=1e-8)


@pytest.mark.parametrize("method", RATIOS)
@pytest.mark.parametrize("counts", [(0, 5, 0, 5), (5, 5, 0, 5), (0, 5, 5, 5)])
def test_ratios_of_nothing_are_numbers(method, counts):
    assert 0 <= from_counts(counts, method=method) < 10


def test_a_credible_interval_is_the_published_one():
    found = credible_interval(487, 487, 512, 513, delta=1e-5, significance=0.1)
    np.testing.assert_allclose(found, (0.145, 6.399), rtol=1e-2)
    certain = credible_interval(5, 5, 0, 5, delta=0.9, significance=0.1)
    assert certain[0] == 0 < certain[1]
    wide = credible_interval(50, 100, 5, 100, delta=1e-5, significance=0.1)
    assert wide[0] < np.log(10) < wide[1]


def normal(rng, mu, size):
    return rng.normal(mu, size=size), rng.normal(size=size)


@pytest.mark.parametrize(
    "threshold", ["band", pytest.param("split", marks=pytest.mark.slow), 0.5]
)
@pytest.mark.parametrize("method", ["clopper_pearson", "gdp"])
def test_the_bound_is_too_high_no_more_often_than_stated(method, threshold):
    mu, delta, trials = 1.0, 1e-3, 2000
    truth = dp_accounting.get_epsilon_gaussian(1 / mu, delta)
    rng, wrong, found = np.random.default_rng(0), 0, []
    for seed in range(trials):
        ins, outs = normal(rng, mu, 40)
        bound = epsilon_from_scores(
            ins,
            outs,
            delta=delta,
            significance=0.2,
            method=method,
            threshold=threshold,
            seed=seed,
        )
        wrong += bound > truth
        found.append(bound)
    assert wrong <= stats.binom.isf(1e-4, trials, 0.2)
    assert np.mean(found) > 0.02 * truth


def test_a_mechanism_that_is_just_private_is_hardly_ever_caught():
    # Laplace noise with a loss of 1: the tails are where the bound is tight.
    rng, trials = np.random.default_rng(1), 2000
    wrong = 0
    for _ in range(trials):
        ins, outs = rng.laplace(1.0, size=200), rng.laplace(size=200)
        wrong += epsilon_from_scores(ins, outs, delta=0, significance=0.05) > 1
    assert wrong <= stats.binom.isf(1e-4, trials, 0.05)


@pytest.mark.parametrize("method", ["clopper_pearson", "gdp"])
def test_power_rises_to_the_truth_with_the_number_of_scores(method):
    rng = np.random.default_rng(2)
    found = []
    for size in (30, 1000, 30_000):
        ins, outs = normal(rng, 2.0, size)
        found.append(
            epsilon_from_scores(ins, outs, delta=1e-5, significance=0.05, method=method)
        )
    assert np.all(np.diff(found) > 0)
    truth = dp_accounting.get_epsilon_gaussian(0.5, 1e-5)
    least = {"clopper_pearson": 0.4, "gdp": 0.9}[method]
    assert least * truth < found[-1] < truth


@pytest.mark.parametrize("threshold", ["band", "split", 0.0])
def test_equal_scores_say_nothing(threshold):
    same = np.ones(50)
    options = {"delta": 1e-5, "significance": 0.05, "threshold": threshold}
    assert epsilon_from_scores(same, same, **options) == 0.0


def test_a_bound_says_at_what_it_holds_and_is_kept_whole():
    bound = from_counts((50, 100, 5, 100), 1e-5, method="gdp")
    for same in (bound, copy.deepcopy(bound), pickle.loads(pickle.dumps(bound))):
        assert isinstance(same, LowerBound)
        assert (same, same.delta, same.method) == (bound, 1e-5, "gdp")
        assert same.significance == 0.05


GOOD = {"delta": 1e-5, "significance": 0.05}


@pytest.mark.parametrize(
    ("ins", "changes", "name"),
    [
        ([], {}, "in_scores"),
        ([[1.0]], {}, "in_scores"),
        ([np.nan, 1.0], {}, "in_scores"),
        ([np.inf], {}, "in_scores"),
        (["one"], {}, "in_scores"),
        ([1.0], {"delta": 1.0}, "delta"),
        ([1.0], {"delta": -0.1}, "delta"),
        ([1.0], {"significance": 0}, "significance"),
        ([1.0], {"significance": 1.5}, "significance"),
        ([1.0], {"method": "guess"}, "method"),
        ([1.0], {"method": "katz", "threshold": 0.5}, "delta"),
        ([1.0], {"method": "katz", "delta": 0}, "threshold"),
        ([1.0], {"method": "gdp", "delta": 0}, "delta"),
        ([1.0], {"threshold": "best"}, "threshold"),
        ([1.0], {"threshold": np.nan}, "threshold"),
        ([1.0], {"threshold": "split"}, "threshold"),
    ],
)
def test_hostile_scores_and_settings_are_refused(ins, changes, name):
    with pytest.raises((ValueError, TypeError), match=name):
        epsilon_from_scores(ins, [0.0, 1.0], **(GOOD | changes))


@pytest.mark.parametrize(
    "counts", [(1, 0, 0, 1), (1, 1, 0, 0), (2, 1, 0, 1), (0, 1, 2, 1), (-1, 1, 0, 1)]
)
def test_counts_that_do_not_fit_are_refused(counts):
    with pytest.raises(ValueError, match="Expected"):
        from_counts(counts)
