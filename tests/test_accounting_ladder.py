"""How closely a contour is sampled."""

import math

import numpy as np
import pytest

from dpjax.accounting import exact_epsilon
from dpjax.accounting.contours import ladder, saddle
from dpjax.accounting.contours.ladder import Table
from dpjax.accounting.contours.quadrature import Region
from dpjax.accounting.contours.saddle import Side
from dpjax.accounting.laws.privacy_loss import SampledGaussian

PAIR = SampledGaussian(1.0, 0.01)
ONCE = np.ones(1)
RUN = {"noise_multiplier": 1.0, "sampling_prob": 0.01, "num_steps": 1000}


@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.01])
def test_bounds_are_above_epsilon_and_not_far(delta):
    side = Side([PAIR], ONCE, False)
    epsilon = exact_epsilon(**RUN, delta=delta)
    (bound,) = ladder.bounds(side, np.array([1000.0]), delta)
    assert epsilon <= bound <= 1.3 * epsilon + 0.05


def test_the_span_of_a_gaussian_loss_is_known():
    # One plain release with s = 1: the loss is N(1/2, 1), and on either side of epsilon
    # the terms are nothing from where a normal tail, at the saddle point, is e^-36.
    table = Table.around(
        saddle.rough(
            Side([SampledGaussian(1.0, 1.0)], ONCE, False), Region(-60, False)
        ),
        3.8,
    )
    chernoff = table.chernoff(ONCE, np.array([4.3]), np.array([math.log(1e-5)]))
    index = int(np.searchsorted(table.tilts, 3.8))
    (span,) = table.aliases(chernoff, index, 36.0)
    # Chernoff's bounds are up to e^3 above the tails themselves.
    assert math.sqrt(2 * 36) <= span <= 1.5 * math.sqrt(2 * 39)


def test_losses_below_the_floor_do_not_add_up_to_epsilon():
    side = Side([PAIR], ONCE, False)
    region = Region(-50.0, False)
    rules = saddle.rough(side, region)
    floored, table = ladder.find_floor(rules, side, region, 3.0, 1.5, -40.0)
    assert 0 < floored.floor < 1.5
    assert (3.0 * table.moments - 1.5 * table.tilts).min() < -40.0


def test_without_room_there_is_no_floor():
    side = Side([PAIR], ONCE, False)
    rules = saddle.rough(side, Region(-50.0, False))
    with pytest.raises(saddle.WeakContourError):
        ladder.find_floor(rules, side, Region(-50.0, False), 1e5, 1.0, -1e9)
