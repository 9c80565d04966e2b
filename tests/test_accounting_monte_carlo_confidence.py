"""Upper confidence bounds on the mean of variables between 0 and 1."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dpjax.accounting.monte_carlo.confidence import least_upper, upper_mean

LAWS = {
    "a rare coin": lambda source, size: source.random(size) < 0.01,
    "a fair coin": lambda source, size: source.random(size) < 0.5,
    "uniform": lambda source, size: source.random(size),
    "rare and uniform": lambda source, size: (
        source.random(size) * (source.random(size) < 0.02)
    ),
    "nearly always 1": lambda source, size: source.random(size) > 1e-3,
}
MEANS = {
    "a rare coin": 0.01,
    "a fair coin": 0.5,
    "uniform": 0.5,
    "rare and uniform": 0.01,
    "nearly always 1": 0.999,
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("failure", [0.3, 0.05])
def test_a_bound_fails_no_more_often_than_stated(law, failure):
    source, rounds = np.random.default_rng(7), 1000
    bounds = [
        upper_mean(LAWS[law](source, 300).astype(float), failure) for _ in range(rounds)
    ]
    failed = sum(bound < MEANS[law] for bound in bounds)
    assert stats.binom.sf(failed - 1, rounds, failure) > 1e-6
    # A mean that is a half larger would be missed often: the bound is of some use.
    if law in ("a fair coin", "uniform"):
        assert np.mean(np.array(bounds) < 1.5 * MEANS[law]) > 0.9


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=50),
    st.floats(1e-12, 0.9),
)
def test_a_bound_is_above_the_mean_and_at_most_one(values, failure):
    bound = upper_mean(np.array(values), failure)
    assert np.mean(values) <= bound <= 1
    assert bound >= min(1.0, least_upper(len(values), failure)) * (1 - 1e-9)
    assert bound <= upper_mean(np.array(values), failure / 2)


@pytest.mark.parametrize("count", [2, 100, 10**6])
@pytest.mark.parametrize("failure", [0.5, 1e-3])
def test_nothing_seen_still_leaves_the_least_bound(count, failure):
    bound = upper_mean(np.zeros(count), failure)
    assert bound == pytest.approx(least_upper(count, failure), rel=1e-6)
    assert (1 - bound) ** count == pytest.approx(failure / 2, rel=1e-6)


def test_many_values_have_the_bound_of_the_normal_law():
    values = np.random.default_rng(3).random(10**6)
    bound = upper_mean(values, 0.02)
    error = math.sqrt(values.var() / 10**6)
    assert 2 * error < bound - values.mean() < 4 * error
