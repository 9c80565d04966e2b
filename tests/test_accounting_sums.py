"""Laws of sums of positive random variables, from above."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpjax.accounting.laws import sums

H = 0.05


def law(seed, size, zero=0.0, beyond=0.0, lowest=-20):
    masses = np.random.default_rng(seed).dirichlet(np.ones(size)) * (1 - zero)
    return sums.PositiveLaw(lowest, H, masses, zero, beyond)


def total(one):
    return one.masses.sum() + one.zero


def mean(one):
    return one.masses @ np.exp(one.logs) + one.beyond


def call(one, strike):
    """Return E (S - strike)_+: what the convex order compares at all strikes."""
    paid = one.masses @ np.clip(np.exp(one.logs) - strike, 0, None)
    return paid + one.beyond


def calls(points, masses, strikes):
    return np.clip(points[:, None] - strikes, 0, None).T @ masses


def support(one):
    return np.append(0.0, np.exp(one.logs)), np.append(one.zero, one.masses)


@settings(max_examples=20)
@given(st.integers(0, 99), st.integers(1, 30), st.integers(1, 30), st.integers(-40, 0))
def test_a_sum_keeps_its_mean_and_is_above_the_exact_one(seed, size, other_size, low):
    one = law(seed, size, zero=0.1)
    other = law(seed + 1, other_size, zero=0.05, lowest=low)
    found = sums.added(one, other)
    points, masses = support(one)
    more, other_masses = support(other)
    exact = (points[:, None] + more).ravel(), np.outer(masses, other_masses).ravel()
    assert total(found) == pytest.approx(1, rel=1e-13)
    assert mean(found) == pytest.approx(mean(one) + mean(other), rel=1e-13)
    assert found.zero == pytest.approx(one.zero * other.zero)
    strikes = np.geomspace(1e-2, 20, 25)
    truth = calls(*exact, strikes)
    above = np.array([call(found, strike) for strike in strikes])
    assert np.all(above >= truth - 1e-13)
    # Split between the ends of a cell, mass lifts a call by a quarter of its width.
    assert np.all(above <= truth + math.expm1(H) / 4 * mean(found))


@given(st.integers(0, 99), st.integers(1, 60), st.floats(1e-6, 0.5))
def test_what_is_trimmed_stays_above_and_is_as_little_as_allowed(seed, size, tail):
    one = law(seed, size, zero=0.01, beyond=0.02)
    found = one.trimmed(tail)
    assert total(found) == pytest.approx(1, rel=1e-13)
    assert mean(found) == pytest.approx(mean(one), rel=1e-13)
    assert found.zero - one.zero <= tail * (1 + 1 / np.exp(one.logs[0]))
    assert found.beyond - one.beyond <= tail * mean(one) * (1 + 1e-12)
    for strike in np.geomspace(1e-2, 20, 25):
        assert call(found, strike) >= call(one, strike) - 1e-13


@given(st.integers(0, 99), st.integers(1, 60), st.floats(0.01, 0.2))
def test_another_grid_keeps_the_mean_and_stays_above(seed, size, interval):
    one = law(seed, size, zero=0.01, beyond=0.02)
    found = one.finer(interval)
    assert total(found) == pytest.approx(1, rel=1e-13)
    assert mean(found) == pytest.approx(mean(one), rel=1e-13)
    for strike in np.geomspace(1e-2, 20, 25):
        assert call(found, strike) >= call(one, strike) - 1e-12


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7, 13, 100])
def test_many_repetitions_have_the_mean_and_the_variance_of_so_many(count):
    one = law(3, 30)
    found = sums.repeated(one, count, 1e-12, 400)
    assert mean(found) == pytest.approx(count * mean(one), rel=1e-12)
    points, masses = support(one)
    variance = masses @ (points - mean(one)) ** 2
    spread = found.masses @ (np.exp(found.logs) - mean(found)) ** 2
    assert count * variance < spread * (1 + 1e-9)
    assert spread < 1.02 * count * variance + found.beyond


def test_one_repetition_is_the_law_itself():
    one = law(3, 30)
    assert sums.repeated(one, 1, 1e-12, 400) is one


def test_far_tails_keep_their_digits():
    # Only both largest points sum to the largest sum: a mass of 1e-200.
    one = sums.PositiveLaw(0, H, np.array([1 - 1e-100, 0, 0, 1e-100]), 0.0, 0.0)
    found = sums.added(one, one)
    largest = 2 * math.exp(3 * H)
    assert call(found, largest * 0.999) == pytest.approx(1e-200 * largest / 1000)
