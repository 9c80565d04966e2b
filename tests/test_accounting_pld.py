"""The accountant of privacy loss distributions."""

import math

import dp_accounting
import numpy as np
import pytest
from accounting_cases import CASES, IDS, event, sampled
from dp_accounting.pld import PLDAccountant

from dpjax.accounting import pld, rdp
from dpjax.accounting.epsilon import AccountingError
from dpjax.accounting.events import Relation, take_apart
from dpjax.accounting.laws import privacy_loss

ADD = Relation.ADD_OR_REMOVE_ONE
ZERO = Relation.REPLACE_SPECIAL
REPLACE = Relation.REPLACE_ONE
GAUSSIAN = dp_accounting.GaussianDpEvent
LAPLACE = dp_accounting.LaplaceDpEvent


def pld_epsilon(event, delta, relation=ADD):
    return pld.epsilon(take_apart(event), delta, relation)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_epsilon_is_never_below_the_truth_and_within_two_parts_in_ten_thousand(case):
    epsilon = pld_epsilon(event(case), case["delta"])
    assert epsilon >= case["epsilon"] * (1 - case["uncertainty"] - 1e-12)
    assert epsilon <= case["epsilon"] * (1 + 2e-4)
    assert epsilon.method == "pld"


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_error_covers_what_the_grid_adds(case):
    epsilon = pld_epsilon(event(case), case["delta"])
    # With few steps the excess depends on where grid points fall: twice the estimate.
    assert epsilon - case["epsilon"] <= 2 * epsilon.error + 1e-10 * epsilon
    assert epsilon.error <= 6e-4 * epsilon


@pytest.mark.parametrize("case", CASES[::3], ids=IDS[::3])
def test_delta_at_epsilon_is_not_below_the_truth_and_next_to_it(case):
    delta = pld.delta(take_apart(event(case)), case["epsilon"], ADD)
    slack = case["epsilon"] * (2e-4 + case["uncertainty"])
    later = pld.delta(take_apart(event(case)), case["epsilon"] + slack, ADD)
    assert later <= case["delta"] * (1 + 1e-5)
    assert delta >= case["delta"] * (1 - 1e-5) or case["uncertainty"] > 1e-9
    assert delta.method == "pld"


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "relation"),
    [
        (1.0, 0.01, 1000, REPLACE),
        (1.5, 0.04, 2250, REPLACE),
        (1.5, 0.04, 2250, ZERO),
        (0.7, 0.3, 10, ADD),
    ],
)
def test_epsilon_agrees_with_the_library(noise, rate, steps, relation):
    library = PLDAccountant(relation, 1e-3).compose(sampled(noise, rate, steps))
    expected = library.get_epsilon(1e-5)
    actual = pld_epsilon(sampled(noise, rate, steps), 1e-5, relation)
    assert actual == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize("relation", [ADD, ZERO, REPLACE])
@pytest.mark.parametrize(("noise", "count"), [(1.0, 1), (5.0, 30), (300.0, 10**7)])
def test_plain_gaussian_releases_have_their_closed_form(noise, count, relation):
    sensitivity = 2 if relation == REPLACE else 1
    truth = dp_accounting.get_epsilon_gaussian(
        noise / sensitivity / math.sqrt(count), 1e-6
    )
    releases = dp_accounting.SelfComposedDpEvent(GAUSSIAN(noise), count)
    epsilon = pld_epsilon(releases, 1e-6, relation)
    assert truth <= epsilon <= truth * (1 + 1e-11) + 2e-12
    assert epsilon.error == 0


def test_sampling_nearly_everything_costs_nearly_the_closed_form():
    truth = dp_accounting.get_epsilon_gaussian(10 / math.sqrt(200), 1e-5)
    epsilon = pld_epsilon(sampled(10.0, 1 - 1e-9, 200), 1e-5)
    assert epsilon == pytest.approx(truth, rel=1e-3)


def test_plain_and_sampled_releases_compose():
    together = dp_accounting.ComposedDpEvent([GAUSSIAN(4.0), sampled(1.0, 0.01, 500)])
    apart = [pld_epsilon(event, 1e-5) for event in together.events]
    epsilon = pld_epsilon(together, 1e-5)
    assert max(apart) < epsilon < sum(apart)
    library = PLDAccountant(ADD, 1e-3).compose(together).get_epsilon(1e-5)
    assert epsilon == pytest.approx(library, rel=3e-3)


@pytest.mark.parametrize("noise", [1e-5, 1e-3, 0.05])
def test_hardly_any_noise_falls_back_to_a_sound_bound(noise):
    parts = take_apart(sampled(noise, 0.5, 10))
    epsilon = pld.epsilon(parts, 1e-5, ADD)
    assert epsilon == rdp.epsilon(parts, 1e-5, ADD)
    assert (epsilon.method, math.isnan(epsilon.error)) == ("rdp", True)
    replaced = pld.epsilon(parts, 1e-5, REPLACE)
    closed_form = dp_accounting.get_epsilon_gaussian(noise / 2 / math.sqrt(10), 1e-5)
    assert replaced == pytest.approx(closed_form, rel=1e-9)


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta"),
    [
        (0.07, 1e-9, 10**9, 1e-12),
        (0.07, 0.999, 10**6, 0.1),
        (1e6, 1e-9, 1, 1e-30),
        (1e3, 0.5, 10**9, 1e-5),
        (1.0, 1e-9, 1, 0.9),
    ],
)
def test_extreme_settings_stay_below_the_renyi_bound(noise, rate, steps, delta):
    parts = take_apart(sampled(noise, rate, steps))
    assert 0 <= pld.epsilon(parts, delta, ADD) <= rdp.epsilon(parts, delta, ADD)


def test_too_many_steps_are_sent_to_the_renyi_accountant():
    with pytest.raises(AccountingError, match="accountant='rdp', got count=1000000000"):
        pld_epsilon(sampled(1.0, 0.1, 10**11), 1e-5)


def test_other_mechanisms_compose_through_the_library():
    # Each Laplace release has pure epsilon 1 / noise: 3 / 1 + 2 / 2 = 4 at delta -> 0.
    laplace = dp_accounting.ComposedDpEvent(
        [
            dp_accounting.SelfComposedDpEvent(LAPLACE(1.0), 3),
            dp_accounting.SelfComposedDpEvent(LAPLACE(2.0), 2),
        ]
    )
    epsilon = pld_epsilon(laplace, 1e-9)
    assert epsilon == pytest.approx(4.0, abs=1e-3)
    with_gaussian = dp_accounting.ComposedDpEvent([laplace, GAUSSIAN(3.0)])
    assert pld_epsilon(with_gaussian, 1e-9) > epsilon
    assert math.isnan(epsilon.error)


def test_a_delta_that_the_library_cannot_resolve_is_sent_to_the_renyi_accountant():
    with pytest.raises(AccountingError, match=r"accountant='rdp', got delta=1e-10"):
        pld_epsilon(LAPLACE(1.0), 1e-10)


@pytest.mark.parametrize(
    ("event", "relation"),
    [
        (dp_accounting.RandomizedResponseDpEvent(0.5, 2), ZERO),
        (dp_accounting.ZCDpEvent(0.1), ADD),
        (LAPLACE(1.0), REPLACE),
        (dp_accounting.dp_event.MixtureOfGaussiansDpEvent(1.0, [1.0], [1.0]), REPLACE),
        (dp_accounting.UnsupportedDpEvent(), ADD),
    ],
)
def test_what_has_no_sound_account_is_refused(event, relation):
    with pytest.raises(AccountingError, match=type(event).__name__):
        pld.epsilon([(event, 100)], 1e-5, relation)


@pytest.mark.parametrize("step", [sampled(1.0, 0.01), GAUSSIAN(30.0), LAPLACE(20.0)])
def test_curve_holds_the_epsilon_of_each_number_of_steps(step):
    steps = [0, 1, 20, 300]
    curve = pld.curve(take_apart(step), 1e-5, ADD, steps)
    repeated = [dp_accounting.SelfComposedDpEvent(step, n) for n in steps[1:]]
    points = [pld_epsilon(event, 1e-5) for event in repeated]
    np.testing.assert_allclose(curve, [0.0, *points], rtol=1e-4)


def test_curve_puts_the_step_on_the_grid_once(monkeypatch):
    calls = []
    original = privacy_loss.grid_laws

    def counting(*args):
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(privacy_loss, "grid_laws", counting)
    pld.curve(take_apart(sampled(1.0, 0.01)), 1e-5, ADD, range(1, 30))
    assert len(calls) == 1
