"""Deltas from the transform along a line."""

import math

import numpy as np
import pytest
from scipy import special

from dpjax.accounting.contours import line
from dpjax.accounting.contours.quadrature import Region
from dpjax.accounting.contours.saddle import Side, WeakContourError
from dpjax.accounting.laws.privacy_loss import SampledGaussian

ONCE = np.ones(1)
PLAIN = Side([SampledGaussian(1.0, 1.0)], ONCE, False)
REGION = Region(-60.0, False)


def gaussian_delta(noise, epsilon):
    """Return the delta of a plain release, by Balle and Wang's theorem 8."""
    near, far = 0.5 / noise - epsilon * noise, -0.5 / noise - epsilon * noise
    return special.ndtr(near) - math.exp(epsilon) * special.ndtr(far)


def deltas(drawn, epsilon):
    return line.deltas(drawn, ONCE, drawn.logs(ONCE), np.array([epsilon]))


@pytest.mark.parametrize("tilt", [2.0, 3.5, 5.0])
@pytest.mark.parametrize("span", [25.0, 60.0])
def test_delta_does_not_depend_on_the_line(tilt, span):
    drawn = line.draw(PLAIN, REGION, tilt, span, 1.0, -50.0, 4096)
    truth = math.log(gaussian_delta(1.0, 4.0))
    now = deltas(drawn, 4.0)
    assert now.log[0] == pytest.approx(truth, abs=1e-10)
    assert 0 < now.error[0] < 1e-10


def test_the_slope_is_the_derivative():
    drawn = line.draw(PLAIN, REGION, 3.5, 30.0, 1.0, -50.0, 4096)
    difference = deltas(drawn, 4.001).log - deltas(drawn, 3.999).log
    assert deltas(drawn, 4.0).slope == pytest.approx(difference / 2e-3, rel=1e-6)


def test_what_is_rounding_is_no_delta():
    drawn = line.draw(PLAIN, REGION, 3.5, 30.0, 1.0, -50.0, 4096)
    assert np.isnan(deltas(drawn, 25.0).log[0])


def test_repeats_are_that_many_steps():
    drawn = line.draw(PLAIN, REGION, 1.5, 60.0, 4.0, -50.0, 4096)
    four = np.array([4.0])
    now = line.deltas(drawn, four, drawn.logs(four), np.array([8.0]))
    truth = math.log(gaussian_delta(0.5, 8.0))
    assert now.log[0] == pytest.approx(truth, abs=1e-10)


def test_losses_above_the_ceiling_count_in_full():
    side = Side([SampledGaussian(1.0, 0.05)], ONCE, False)
    region = Region(-60.0, False, ceiling=1.5)
    upper, lower = region.left_out(side.pairs[0])
    whole = line.draw(side, REGION._replace(floor=0.5), 3.0, 40.0, 1.0, -50.0, 2**14)
    below = line.draw(side, region._replace(floor=0.5), 3.0, 40.0, 1.0, -50.0, 2**14)
    both = below._replace(beyond=(math.log1p(-upper), math.log1p(-lower)))
    assert deltas(both, 1.2).log == pytest.approx(deltas(whole, 1.2).log, abs=1e-9)
    assert deltas(below, 1.2).log[0] < deltas(whole, 1.2).log[0] - 1e-3


def test_a_line_that_takes_too_many_nodes_is_refused():
    few = Side([SampledGaussian(1.0, 1e-6)], ONCE, False)
    with pytest.raises(WeakContourError):
        line.draw(few, REGION, 3.5, 30.0, 1.0, -50.0, 256)


@pytest.mark.parametrize("log_mass", [0.0, -1e-300, -1e-5, -50.0])
def test_losses_above_a_ceiling_are_finite_at_any_epsilon(log_mass):
    drawn = line.Line(1.0, 1.0, np.zeros(1), None, 0.0, beyond=(-0.1, log_mass))
    repeats, epsilons = np.array([1.0, 8.0]), np.array([1.0, 3000.0])
    values, slopes = drawn.above(repeats, epsilons)
    assert np.isfinite(values).all()
    assert (slopes <= 0).all()
    lower = -np.e * -np.expm1(log_mass)
    assert slopes[0] == pytest.approx(lower, rel=1e-12)
    assert values[0] == pytest.approx(-np.expm1(-0.1) + lower, rel=1e-12)
