"""An event in other currencies."""

import math

import dp_accounting
import numpy as np
import pytest
from accounting_cases import sampled
from scipy import special

from dpjax.accounting import AccountingError, event_delta, views
from dpjax.accounting.events import NON_PRIVATE, Relation, take_apart
from dpjax.accounting.renyi import of_events
from dpjax.accounting.tradeoff import trade_off_curve

GAUSSIAN = dp_accounting.GaussianDpEvent
LAPLACE = dp_accounting.LaplaceDpEvent
ADD, REPLACE = Relation.ADD_OR_REMOVE_ONE, Relation.REPLACE_ONE
NOTHING = dp_accounting.NoOpDpEvent()
RUN = sampled(1.0, 0.02, 200)


def gaussian_delta(epsilon, mu):
    low = special.ndtr(-epsilon / mu - mu / 2)
    return special.ndtr(-epsilon / mu + mu / 2) - np.exp(epsilon) * low


@pytest.mark.parametrize("regret", [0.0, 1e-5])
def test_mu_of_plain_gaussians_is_one_over_their_noise(regret):
    event = dp_accounting.ComposedDpEvent([GAUSSIAN(2.0), GAUSSIAN(4.0)])
    # mu^2 = 1/4 + 1/16; replacing moves the sum twice as far.
    expected = math.sqrt(0.3125)
    assert views.gaussian_dp(event, regret=regret) == pytest.approx(expected)
    replaced = views.gaussian_dp(event, regret=regret, relation=REPLACE)
    assert replaced == pytest.approx(2 * expected)


@pytest.mark.parametrize(
    "event",
    [
        RUN,
        pytest.param(sampled(0.7, 1e-3, 500), marks=pytest.mark.slow),
        pytest.param(LAPLACE(1.0), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("regret", [1e-3, 1e-6])
def test_with_its_regret_mu_bounds_every_delta_of_the_event(event, regret):
    mu = views.gaussian_dp(event, regret=regret)
    for epsilon in np.linspace(0, 6, 13):
        allowed = gaussian_delta(epsilon, mu) + regret
        assert event_delta(event, float(epsilon)) <= allowed * (1 + 1e-9)


def test_a_smaller_mu_would_be_no_bound():
    # The curve is known from 65 tangents, which cost a few parts in a hundred.
    regret = 1e-5
    mu = views.gaussian_dp(RUN, regret=regret)
    rates = np.geomspace(1e-6, 0.5, 400)
    gaussian = special.ndtr(-special.ndtri(rates) - 0.95 * mu)
    assert np.any(gaussian - regret > trade_off_curve(RUN).false_negative_rate(rates))


def test_the_limit_theorem_is_not_what_is_given():
    # Of (1, 0.004, 15000): 0.642, by mu = q (T (e - 1))^(1/2), which is no bound.
    event = sampled(1.0, 0.004, 15000)
    limit = 0.004 * math.sqrt(15000 * math.expm1(1.0))
    assert limit < views.gaussian_dp(event, regret=1e-5) < 0.68


def test_without_regret_sampling_saves_nothing():
    assert views.gaussian_dp(sampled(2.0, 1e-3, 9)) == pytest.approx(1.5)
    assert views.gaussian_dp(sampled(2.0, 1e-3, 9), relation=REPLACE) == 3.0
    # Far in the tail, an output is as telling as one of a step without sampling.
    loss = 700.0
    for mu, bounds in [(1.0, True), (0.98, False)]:
        delta = event_delta(sampled(1.0, 1e-3), loss).log
        gaussian = special.log_ndtr(-loss / mu + mu / 2)
        assert (delta <= gaussian) == bounds


@pytest.mark.parametrize("relation", [ADD, REPLACE])
@pytest.mark.parametrize("rate", [1.0, 0.9, 0.3, 1e-4])
def test_rho_of_gaussians_is_the_least_that_holds_at_all_orders(rate, relation):
    event = sampled(3.0, rate, 4)
    rho = views.zero_concentrated_dp(event, relation=relation)
    orders = 1 + np.geomspace(1e-3, 1e6, 300)
    ratios = of_events.divergences(take_apart(event), orders, relation) / orders
    assert np.all(ratios <= rho * (1 + 1e-12))
    assert rho == pytest.approx(ratios.max(), rel=2e-3)


@pytest.mark.parametrize(
    ("event", "rho"),
    [
        (GAUSSIAN(2.0), 0.125),
        (NOTHING, 0.0),
        (NON_PRIVATE, math.inf),
        (dp_accounting.ZCDpEvent(0.3, 0.1), 0.4),
        (dp_accounting.SelfComposedDpEvent(LAPLACE(2.0), 3), 0.375),
    ],
)
def test_rho_of_other_events_is_known(event, rho):
    assert views.zero_concentrated_dp(event) == pytest.approx(rho)
    if 0 < rho < math.inf:
        orders = 1 + np.geomspace(1e-3, 1e6, 50)
        divergences = of_events.divergences(take_apart(event), orders, ADD)
        assert np.all(divergences <= rho * orders * (1 + 1e-8))


@pytest.mark.parametrize(
    ("event", "relation"),
    [
        (dp_accounting.RandomizedResponseDpEvent(0.5, 2), ADD),
        (LAPLACE(1.0), REPLACE),
        (dp_accounting.ZCDpEvent(0.1), REPLACE),
    ],
)
def test_where_no_rho_is_known_it_is_refused(event, relation):
    with pytest.raises(AccountingError, match=type(event).__name__):
        views.zero_concentrated_dp(event, relation=relation)


@pytest.mark.parametrize("noise", [0.5, 1.0, 5.0])
@pytest.mark.parametrize("rate", [1e-4, 0.1, 1.0])
@pytest.mark.parametrize("largest", [1.5, 12.0, 900.0])
def test_truncated_rho_is_the_least_that_holds_up_to_its_order(noise, rate, largest):
    event = sampled(noise, rate, 7)
    rho = views.truncated_cdp(event, largest)
    orders = 1 + np.append(np.geomspace(1e-5, largest - 1, 3000), largest - 1)
    ratios = of_events.divergences(take_apart(event), orders, ADD) / orders
    assert ratios.max() * (1 - 1e-12) <= rho <= ratios.max() * (1 + 2e-3)
    assert rho <= views.zero_concentrated_dp(event) * (1 + 2e-3)


def test_nothing_costs_nothing_and_no_noise_everything():
    assert views.gaussian_dp(NOTHING) == 0
    assert views.truncated_cdp(NOTHING, 10.0) == 0
    assert views.gaussian_dp(NON_PRIVATE, regret=0.1) == math.inf
    assert views.truncated_cdp(NON_PRIVATE, 10.0) == math.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: views.gaussian_dp(RUN, regret=1.0), "regret=1.0"),
        (lambda: views.gaussian_dp(RUN, regret=-0.1), "regret=-0.1"),
        (lambda: views.gaussian_dp(LAPLACE(1.0)), "regret above 0"),
        (lambda: views.truncated_cdp(RUN, 1.0), "max_order=1.0"),
    ],
)
def test_a_setting_out_of_range_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
