"""Accountants by name, and the laws that all of them keep."""

import math

import dp_accounting
import hypothesis
import pytest
from accounting_cases import sampled
from hypothesis import strategies as st

from dpjax.accounting import (
    event_delta,
    event_epsilon,
    exact_epsilon,
    pld_epsilon,
    rdp_epsilon,
)
from dpjax.accounting.events import Relation

REPEATED = dp_accounting.SelfComposedDpEvent
NAMES = ["exact", "pld", "rdp"]
EPSILON_OF = {"exact": exact_epsilon, "pld": pld_epsilon, "rdp": rdp_epsilon}
SETTINGS = {
    "noise_multiplier": 1.0,
    "sampling_prob": 0.01,
    "num_steps": 300,
    "delta": 1e-5,
}

settings_of_runs = st.fixed_dictionaries(
    {
        "noise_multiplier": st.floats(0.5, 20.0),
        "sampling_prob": st.floats(1e-4, 0.5),
        "num_steps": st.integers(1, 10_000),
        "delta": st.floats(1e-9, 1e-2),
    }
)


@pytest.mark.parametrize("accountant", NAMES)
def test_keyword_form_gives_the_epsilon_of_its_event(accountant):
    epsilon = EPSILON_OF[accountant](**SETTINGS)
    event = sampled(1.0, 0.01, 300)
    same = event_epsilon(event, 1e-5, accountant=accountant)
    assert (epsilon, epsilon.method) == (same, accountant)


def test_the_exact_accountant_is_used_where_none_is_named():
    assert event_epsilon(sampled(1.0, 0.01, 300), 1e-5) == exact_epsilon(**SETTINGS)


def test_a_certified_epsilon_is_next_to_the_exact_one_and_says_by_how_much():
    exact, bound = exact_epsilon(**SETTINGS), exact_epsilon(**SETTINGS, certified=True)
    assert bound.method == "certified"
    assert exact <= bound <= 1.001 * exact
    assert bound - exact <= bound.error <= 1.01 * (bound - exact) + 1e-9


def test_an_unknown_accountant_is_told_which_exist():
    message = "one of 'exact', 'pld', 'rdp', 'certified', got accountant='gdp'."
    with pytest.raises(ValueError, match=message):
        event_epsilon(sampled(1.0, 0.01, 300), 1e-5, accountant="gdp")


@pytest.mark.parametrize("accountant", NAMES)
@pytest.mark.parametrize(
    ("event", "delta", "expected"),
    [
        (sampled(1.0, 0.01, 0), 1e-5, 0.0),
        (sampled(1.0, 0.01, 0), 0.0, 0.0),
        (sampled(0.0, 0.01, 0), 1e-5, 0.0),
        (sampled(0.0, 0.0, 10), 1e-5, 0.0),
        (dp_accounting.NoOpDpEvent(), 1e-5, 0.0),
        (sampled(0.0, 0.01, 10), 1e-5, math.inf),
        (dp_accounting.NonPrivateDpEvent(), 1e-5, math.inf),
        (sampled(1.0, 0.01, 100), 0.0, math.inf),
    ],
)
def test_degenerate_events_have_their_epsilon_by_definition(
    accountant, event, delta, expected
):
    epsilon = event_epsilon(event, delta, accountant=accountant)
    assert (epsilon, epsilon.error, epsilon.method) == (expected, 0.0, accountant)


@pytest.mark.parametrize("accountant", NAMES)
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("noise_multiplier", -1.0, ValueError),
        ("noise_multiplier", math.nan, ValueError),
        ("noise_multiplier", "1", TypeError),
        ("sampling_prob", 0.0, ValueError),
        ("sampling_prob", 1.5, ValueError),
        ("num_steps", -1, ValueError),
        ("num_steps", 10.0, TypeError),
        ("delta", -1e-5, ValueError),
        ("delta", 1.0, ValueError),
        ("delta", math.nan, ValueError),
    ],
)
def test_a_setting_out_of_range_is_named(accountant, name, value, error):
    with pytest.raises(error, match=f"got {name}="):
        EPSILON_OF[accountant](**(SETTINGS | {name: value}))


@pytest.mark.parametrize("accountant", NAMES)
@hypothesis.given(settings_of_runs, st.floats(1.02, 3.0))
@hypothesis.settings(max_examples=12)
def test_epsilon_grows_with_steps_and_sampling_and_falls_with_noise_and_delta(
    accountant, settings, factor
):
    epsilon_of = EPSILON_OF[accountant]
    epsilon = epsilon_of(**settings)
    worse = [
        settings | {"num_steps": math.ceil(settings["num_steps"] * factor)},
        settings | {"sampling_prob": min(1.0, settings["sampling_prob"] * factor)},
        settings | {"noise_multiplier": settings["noise_multiplier"] / factor},
        settings | {"delta": settings["delta"] / factor},
    ]
    for changed in worse:
        assert epsilon_of(**changed) >= epsilon * (1 - 1e-5)


@hypothesis.given(settings_of_runs)
@hypothesis.settings(max_examples=25)
def test_the_exact_epsilon_is_the_least_and_the_renyi_bound_the_largest(settings):
    exact, pld = exact_epsilon(**settings), pld_epsilon(**settings)
    assert exact - exact.error <= pld <= rdp_epsilon(**settings)


@pytest.mark.parametrize("accountant", NAMES)
@pytest.mark.parametrize(
    "relation", [Relation.ADD_OR_REMOVE_ONE, Relation.REPLACE_SPECIAL]
)
def test_repeating_an_event_is_composing_it_with_itself(accountant, relation):
    options = {"accountant": accountant, "relation": relation}
    steps = [
        sampled(1.0, 0.02, 5),
        sampled(2.0, 0.1, 3),
        dp_accounting.GaussianDpEvent(9.0),
    ]
    once = dp_accounting.ComposedDpEvent(steps)
    listed = dp_accounting.ComposedDpEvent([once] * 4)
    expected = event_epsilon(listed, 1e-5, **options)
    assert event_epsilon(REPEATED(once, 4), 1e-5, **options) == pytest.approx(
        expected, rel=1e-12
    )
    assert event_epsilon(once, 1e-5, **options) < expected


@pytest.mark.parametrize("accountant", ["exact", "pld"])
def test_one_step_more_never_costs_less(accountant):
    epsilon_of = EPSILON_OF[accountant]
    epsilons = [epsilon_of(**(SETTINGS | {"num_steps": n})) for n in range(200, 230)]
    assert epsilons == sorted(epsilons)


@pytest.mark.parametrize("relation", list(Relation))
@pytest.mark.parametrize("steps", [1, 3, 1000])
def test_delta_at_the_epsilon_of_a_delta_is_that_delta(steps, relation):
    event = sampled(0.8, 0.02, steps)
    epsilon = event_epsilon(event, 1e-7, relation=relation)
    delta = event_delta(event, epsilon, relation=relation)
    assert delta == pytest.approx(1e-7, rel=1e-8)
    assert delta.method == "exact"
    bound = event_delta(event, epsilon, relation=relation, accountant="pld")
    assert delta <= bound <= 1.01e-7


@pytest.mark.parametrize(
    ("event", "expected"),
    [(sampled(1.0, 0.1, 0), 0.0), (dp_accounting.NonPrivateDpEvent(), 1.0)],
)
def test_delta_of_nothing_is_0_and_without_noise_1(event, expected):
    assert event_delta(event, 1.0) == expected


def test_a_delta_below_all_floats_is_told_by_its_logarithm():
    # One plain release: delta(60) is about Phi(1/2 - 60), whose log is -0.5 59.5^2.
    delta = event_delta(sampled(1.0, 0.5, 1), 60.0)
    assert 0 < delta < 1e-300
    assert -2000 < delta.log < -1700


@pytest.mark.parametrize("epsilon", [-1.0, math.nan])
def test_an_epsilon_out_of_range_is_named(epsilon):
    with pytest.raises(ValueError, match="got epsilon="):
        event_delta(sampled(1.0, 0.5, 1), epsilon)
