"""The trade-off curve."""

import functools
import math

import dp_accounting
import numpy as np
import pytest
from accounting_cases import sampled
from scipy import special

from dpjax.accounting import event_epsilon, tradeoff
from dpjax.accounting.events import NON_PRIVATE, Relation
from dpjax.accounting.laws.privacy_loss import SampledGaussian
from dpjax.accounting.tradeoff import TradeOffCurve, trade_off_curve

GAUSSIAN = dp_accounting.GaussianDpEvent
RATES = np.array([0.0, 1e-6, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.9, 1.0])
RUN = sampled(1.0, 0.05, 20)


@functools.cache
def run_curve():
    return trade_off_curve(RUN)


def gaussian_curve(rates, mu):
    return special.ndtr(special.ndtri(1 - rates) - mu)


@pytest.mark.parametrize("mu", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("accountant", ["exact", "rdp"])
def test_the_curve_of_a_gaussian_is_its_own_from_just_below(mu, accountant):
    curve = trade_off_curve(GAUSSIAN(1 / mu), accountant=accountant)
    gaps = gaussian_curve(RATES, mu) - curve.false_negative_rate(RATES)
    assert np.all(gaps >= -1e-11)
    if accountant == "exact":
        assert np.all(gaps < 0.01)
        assert curve.advantage == pytest.approx(2 * special.ndtr(mu / 2) - 1, rel=1e-9)


def test_no_threshold_test_of_a_single_step_beats_the_curve():
    # The most powerful tests of one output compare it with a threshold.
    pair = SampledGaussian(0.7, 0.2)
    curve = trade_off_curve(sampled(0.7, 0.2))
    thresholds = np.linspace(-3, 4, 101)
    unused = special.ndtr(-thresholds / 0.7)
    used = 0.8 * unused + 0.2 * special.ndtr((1 - thresholds) / 0.7)
    assert np.all(1 - used >= curve.false_negative_rate(unused) - 1e-12)
    assert np.all(unused >= curve.false_negative_rate(1 - used) - 1e-12)
    # The best of them reaches the advantage.
    assert curve.advantage == pytest.approx(pair.distance, rel=1e-9)


def test_the_curve_promises_what_every_epsilon_promises():
    curve = run_curve()
    for delta in (1e-6, 1e-3, 0.05):
        epsilon = event_epsilon(RUN, delta)
        # Between its tangents the curve is a little lower, and never far.
        line = 1 - delta - np.exp(epsilon) * RATES
        assert np.all(curve.false_negative_rate(RATES) >= line - 0.01)


def test_the_curve_falls_is_convex_and_its_own_inverse():
    curve = run_curve()
    rates = np.linspace(0, 1, 301)
    values = curve.false_negative_rate(rates)
    assert np.all(np.diff(values) <= 0)
    assert np.all(np.diff(values, 2) >= -1e-12)
    assert np.all(values <= 1 - rates + 1e-15)
    inside = (values > 0) & (rates > 0)
    back = curve.false_negative_rate(values[inside])
    np.testing.assert_allclose(back, rates[inside], atol=1e-9)


def test_the_curve_bends_at_its_vertices_and_nowhere_else():
    curve = run_curve()
    false_positive, false_negative = curve.vertices
    assert np.all(np.diff(false_positive) > 0)
    between = (false_positive[1:] + false_positive[:-1]) / 2
    expected = (false_negative[1:] + false_negative[:-1]) / 2
    np.testing.assert_allclose(
        curve.false_negative_rate(between), expected, rtol=1e-9, atol=1e-15
    )


def test_the_largest_difference_of_rates_is_the_advantage():
    curve = run_curve()
    rates = np.linspace(0, 1, 1001)
    differences = curve.true_positive_rate(rates) - rates
    assert differences.max() == pytest.approx(curve.advantage, abs=1e-3)
    assert np.all(differences <= curve.advantage + 1e-12)


def test_precision_is_bayes_theorem():
    curve = run_curve()
    true = curve.true_positive_rate(0.01)
    assert curve.precision(0.01, 0.5) == pytest.approx(true / (true + 0.01), rel=1e-12)
    assert curve.precision(1.0, 0.3) == pytest.approx(0.3)
    assert curve.precision(0.01, 0.1) < curve.precision(0.01, 0.5)


@pytest.mark.parametrize("accountant", ["exact", "rdp"])
def test_more_steps_are_never_harder_to_tell(accountant):
    fewer, more = (
        trade_off_curve(GAUSSIAN(3 / math.sqrt(n)), accountant=accountant)
        for n in (1, 2)
    )
    gaps = fewer.false_negative_rate(RATES) - more.false_negative_rate(RATES)
    assert np.all(gaps >= 0)


def test_replacing_is_easier_to_tell_than_removing():
    removed, replaced = (
        trade_off_curve(GAUSSIAN(2.0), relation=relation)
        for relation in (Relation.ADD_OR_REMOVE_ONE, Relation.REPLACE_ONE)
    )
    assert replaced.advantage == pytest.approx(2 * special.ndtr(0.5) - 1, rel=1e-9)
    assert replaced.advantage > removed.advantage


def test_nothing_released_tells_nothing_and_no_noise_tells_all():
    blind = trade_off_curve(dp_accounting.NoOpDpEvent())
    np.testing.assert_array_equal(blind.false_negative_rate(RATES), 1 - RATES)
    assert blind.advantage == 0
    bare = trade_off_curve(NON_PRIVATE)
    np.testing.assert_array_equal(bare.false_negative_rate(RATES), 0 * RATES)
    assert bare.advantage == 1


def test_a_huge_epsilon_does_not_overflow():
    curve = TradeOffCurve(np.array([0.0, 1e4]), np.array([1.0, 1e-9]))
    assert curve.false_negative_rate(0.0) == 1 - 1e-9
    assert np.all(np.isfinite(curve.vertices))


def test_lines_that_the_curve_does_not_touch_are_left_out():
    points = {0.0: 0.5, 1.0: 0.45, math.log(5.0): 0.1, 3.0: 0.1}
    epsilons, deltas = tradeoff._needed(points)
    assert epsilons.tolist() == [0.0, math.log(5.0)]
    assert deltas.tolist() == [0.5, 0.1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: trade_off_curve(RUN, least_delta=0.0), "least_delta=0.0"),
        (lambda: trade_off_curve(RUN, accountant="none"), "accountant='none'"),
        (lambda: run_curve().precision(0.0, 0.5), "rate=0.0"),
        (lambda: run_curve().precision(0.1, 1.0), "prior=1.0"),
        (lambda: run_curve().true_positive_rate(1.5), "rate=1.5"),
        (lambda: run_curve().false_negative_rate(np.nan), "=nan"),
    ],
)
def test_a_setting_out_of_range_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
