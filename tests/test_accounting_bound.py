"""Bounds on composed laws, rounding included."""

import math

import numpy as np
import pytest
from scipy import stats

from dpjax.accounting.certificates import bound
from dpjax.accounting.grids.window import Window
from dpjax.accounting.laws.privacy_loss import LossLaw

INTERVAL = 0.01
# A loss of 0 or 1: 100 of them are binomial.
COIN = LossLaw(0, np.concatenate([[0.7], np.zeros(99), [0.3]]), 0.0)
VIEW = Window(low=0.0, high=100.0, bound=60.0, tilt=1.0, rounding=0.0)


def delta_by_definition(count, epsilon):
    losses = np.arange(count + 1)
    above = losses > epsilon
    payoff = -np.expm1(epsilon - losses[above])
    return float(stats.binom.pmf(losses[above], count, 0.3) @ payoff)


@pytest.mark.parametrize("epsilon", [35.5, 47.25, 60.0, 80.0])
def test_the_bound_is_just_above_the_binomial(epsilon):
    total = bound.compose([COIN], [100], VIEW, INTERVAL)
    truth = math.log(delta_by_definition(100, epsilon))
    # Far below the window's tail, the bound on the transform's rounding shows.
    slack = 1e-6 if epsilon < 70 else 0.01
    assert truth < total.log_delta(epsilon) < truth + slack


def test_epsilon_is_one_at_which_delta_is_not_exceeded():
    total = bound.compose([COIN], [100], VIEW, INTERVAL)
    epsilon = bound.epsilon(total, 1e-6)
    assert delta_by_definition(100, epsilon) <= 1e-6
    assert delta_by_definition(100, epsilon * (1 - 1e-5)) > 1e-6


def test_what_is_infinite_is_paid_in_full():
    leaky = COIN._replace(infinity=1e-8)
    total = bound.compose([leaky], [100], VIEW, INTERVAL)
    assert total.outside >= 100 * 1e-8
    assert bound.epsilon(total, 0.9e-6) == math.inf
    assert bound.epsilon(total, 2e-6) < 100


def test_what_a_window_cuts_off_is_paid_for():
    narrow = VIEW._replace(high=45.0)
    total = bound.compose([COIN], [100], narrow, INTERVAL)
    truth = delta_by_definition(100, 40.0)
    assert math.exp(total.log_delta(40.0)) >= truth
    assert total.outside >= stats.binom.sf(45, 100, 0.3)
