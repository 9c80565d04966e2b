"""Where the contour crosses the real line, and how closely it is sampled."""

import math

import numpy as np
import pytest

from dpjax.accounting import exact_epsilon
from dpjax.accounting.contours import cumulant, saddle
from dpjax.accounting.contours.quadrature import Region
from dpjax.accounting.contours.saddle import Side
from dpjax.accounting.laws.privacy_loss import SampledGaussian

PAIR = SampledGaussian(1.0, 0.01)
ONCE = np.ones(1)
RUN = {"noise_multiplier": 1.0, "sampling_prob": 0.01, "num_steps": 1000}


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("replace_one", [False, True])
def test_rough_moments_are_nearly_those_of_the_quadrature(added, replace_one):
    pair = SampledGaussian(1.0, 0.01, replace_one)
    region = Region(-40.0, added)
    rules = saddle.rough(Side([pair], ONCE, added), region)
    for tilt in (0.5, 4.0, 8.0):
        real = -tilt if added else 1 + tilt
        truth = cumulant.moments(pair, real, np.zeros(1), region).log_rest[0].real
        assert rules.cumulants(tilt)[0] == pytest.approx(truth, rel=1e-4)


def test_rough_derivatives_are_those_of_the_moments():
    plain = SampledGaussian(3.0, 1.0)
    rules = saddle.rough(
        Side([PAIR, plain], np.array([5.0, 2.0]), False), Region(-40, False)
    )
    _, slope, curvature = rules.cumulants(3.0)
    below, here, above = (rules.cumulants(3.0 + step)[0] for step in (-1e-3, 0, 1e-3))
    assert slope == pytest.approx((above - below) / 2e-3, rel=1e-5)
    assert curvature == pytest.approx((above - 2 * here + below) / 1e-6, rel=1e-3)


def test_the_start_is_close_to_epsilon():
    side = Side([PAIR], ONCE, False)
    rules = saddle.rough(side, Region(math.log(1e-5 / 1000) - 30, False))
    _, epsilon = saddle.start(rules, 1000.0, math.log(1e-5))
    assert epsilon == pytest.approx(exact_epsilon(**RUN, delta=1e-5), rel=0.02)
