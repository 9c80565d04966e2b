"""Lines that are good for given numbers of steps, epsilon and delta."""

import math

import numpy as np
import pytest

from dpjax.accounting import exact_epsilon
from dpjax.accounting.contours import frame, ladder, saddle
from dpjax.accounting.contours.quadrature import Region
from dpjax.accounting.contours.saddle import Side, WeakContourError
from dpjax.accounting.laws.privacy_loss import SampledGaussian

STEPS, DELTA = 1000, 1e-5
LOG_DELTA = math.log(DELTA)
EPSILON = float(
    exact_epsilon(
        noise_multiplier=1.0, sampling_prob=0.01, num_steps=STEPS, delta=DELTA
    )
)
EFFORT = frame.Effort(36.0, 2**12)


def search(pair, steps):
    side = Side([pair], np.ones(1), False)
    region = Region(LOG_DELTA - math.log(steps) - 28, False)
    rules = saddle.rough(side, region)
    tilt, _ = saddle.start(rules, steps, LOG_DELTA)
    return frame.Search(side, region, rules, ladder.Table.around(rules, tilt))


def covered(found, framed, epsilon, steps=STEPS):
    repeats = np.array([float(steps)])
    logs = framed.line.logs(repeats)
    deltas = np.array([LOG_DELTA])
    return frame.covers(found, framed, repeats, logs, np.array([epsilon]), deltas)[0]


def test_a_line_covers_what_it_was_drawn_for_and_what_is_near():
    found = search(SampledGaussian(1.0, 0.01), STEPS)
    framed = frame.frame(found, STEPS, EPSILON, LOG_DELTA, EFFORT)
    assert framed.floor is None
    assert covered(found, framed, EPSILON)
    assert covered(found, framed, 1.01 * EPSILON, STEPS + 10)
    assert not covered(found, framed, 5 * EPSILON, 60 * STEPS)
    assert not covered(found, framed, math.nan)


def test_few_steps_have_a_floor_where_one_is_allowed():
    found = search(SampledGaussian(1.0, 0.01), 3)
    framed = frame.frame(found, 3.0, 0.4, LOG_DELTA, EFFORT)
    assert framed.floor is not None
    assert framed.line.gain is not None
    with pytest.raises(WeakContourError):
        frame.frame(found, 3.0, 0.4, LOG_DELTA, EFFORT._replace(floors=False))


def test_a_ceiling_is_above_all_that_other_steps_can_lack():
    found = search(SampledGaussian(1.0, 0.001), 3)
    capped = found.capped(np.array([3.0]), 0.2)
    assert found.depth(3.0) == pytest.approx(-3 * math.log1p(-0.001))
    assert capped.region.ceiling >= 0.2 + capped.depth(3.0)
    assert capped.beyond[0] < capped.beyond[1] < 0


@pytest.mark.parametrize(
    "pair", [SampledGaussian(1.0, 1.0), SampledGaussian(1.0, 0.001, True)]
)
def test_losses_without_a_least_one_have_no_ceiling(pair):
    found = search(pair, 3)
    assert found.capped(np.array([3.0]), 0.2) is found
