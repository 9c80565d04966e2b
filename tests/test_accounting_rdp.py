"""The Renyi accountant."""

import math

import dp_accounting
import numpy as np
import pytest
from accounting_cases import CASES, IDS, event, sampled

from dpjax.accounting import rdp
from dpjax.accounting.epsilon import AccountingError
from dpjax.accounting.events import Relation, take_apart

ADD = Relation.ADD_OR_REMOVE_ONE
ZERO = Relation.REPLACE_SPECIAL
REPLACE = Relation.REPLACE_ONE
GAUSSIAN = dp_accounting.GaussianDpEvent


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_rdp_is_the_known_bound_and_never_below_the_truth(case):
    epsilon = rdp.epsilon(take_apart(event(case)), case["delta"], ADD)
    assert epsilon >= case["epsilon"]
    assert epsilon == pytest.approx(case["rdp"], rel=1e-6)
    assert epsilon.method == "rdp"
    assert math.isnan(epsilon.error)


@pytest.mark.parametrize("noise", [0.5, 1.0, 4.0])
def test_replacing_one_costs_what_half_the_noise_does(noise):
    replaced = rdp.epsilon([(GAUSSIAN(noise), 3)], 1e-5, REPLACE)
    halved = rdp.epsilon([(GAUSSIAN(noise / 2), 3)], 1e-5, ADD)
    assert replaced == pytest.approx(halved, rel=1e-9)
    # The truth: noise over the doubled sensitivity, by its closed form.
    truth = dp_accounting.get_epsilon_gaussian(noise / 2 / math.sqrt(3), 1e-5)
    assert replaced >= truth


def test_zeroing_one_out_costs_what_removing_it_does():
    parts = take_apart(sampled(1.0, 0.01, 100))
    assert rdp.epsilon(parts, 1e-5, ZERO) == rdp.epsilon(parts, 1e-5, ADD)


def test_divergences_lost_in_rounding_are_not_taken_for_none():
    # R(2) = log(1 + q^2 (e - 1)) is about 2e-20: below what a difference from 1 shows.
    parts = take_apart(sampled(1.0, 1e-10, 10))
    assert rdp.epsilon(parts, 1e-30, ADD) > 0


def test_orders_lost_by_the_library_stay_off_the_console(capfd, caplog):
    epsilon = rdp.epsilon(take_apart(sampled(0.9, 0.3, 120)), 1e-4, ADD)
    assert math.isfinite(epsilon)
    assert capfd.readouterr().err == ""
    assert caplog.text == ""


@pytest.mark.parametrize(
    "event",
    [
        dp_accounting.LaplaceDpEvent(2.0),
        dp_accounting.ZCDpEvent(0.1),
        dp_accounting.SingleEpochTreeAggregationDpEvent(3.0, [4, 4]),
    ],
)
def test_other_events_cost_what_the_library_says_and_more_when_repeated(event):
    library = dp_accounting.rdp.RdpAccountant(neighboring_relation=ZERO)
    once, thrice = (rdp.epsilon([(event, n)], 1e-5, ZERO) for n in (1, 3))
    assert once == pytest.approx(library.compose(event).get_epsilon(1e-5), rel=1e-9)
    assert thrice > 1.2 * once


@pytest.mark.parametrize(
    ("event", "relation"),
    [
        (dp_accounting.PoissonSampledDpEvent(0.1, GAUSSIAN(1.0)), REPLACE),
        (dp_accounting.SampledWithoutReplacementDpEvent(9, 3, GAUSSIAN(1.0)), REPLACE),
        (dp_accounting.LaplaceDpEvent(1.0), REPLACE),
        (dp_accounting.RandomizedResponseDpEvent(0.5, 2), ZERO),
        (dp_accounting.SingleEpochTreeAggregationDpEvent(3.0, 4), ADD),
        (dp_accounting.UnsupportedDpEvent(), ADD),
    ],
)
def test_what_has_no_sound_renyi_account_is_refused(event, relation):
    with pytest.raises(AccountingError, match=type(event).__name__):
        rdp.epsilon([(event, 1)], 1e-5, relation)


def test_curve_holds_the_epsilon_of_each_number_of_steps():
    steps = [0, 1, 10, 1000]
    curve = rdp.curve(take_apart(sampled(1.0, 0.01)), 1e-5, ADD, steps)
    points = [
        rdp.epsilon(take_apart(sampled(1.0, 0.01, n)), 1e-5, ADD) for n in steps[1:]
    ]
    np.testing.assert_allclose(curve, [0.0, *points], rtol=1e-12)
