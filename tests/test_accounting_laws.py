"""Laws that hold for every event that is accepted, whatever it is made of."""

import itertools
import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import dp_event
from hypothesis import given, settings
from hypothesis import strategies as st

from dpjax.accounting import (
    AccountingError,
    event_curve,
    event_delta,
    event_epsilon,
    events,
)
from dpjax.accounting.events import Relation
from dpjax.accounting.renyi import of_events

GAUSSIAN = dp_accounting.GaussianDpEvent
POISSON = dp_accounting.PoissonSampledDpEvent
LAPLACE = dp_accounting.LaplaceDpEvent
REPEATED = dp_accounting.SelfComposedDpEvent
COMPOSED = dp_accounting.ComposedDpEvent
ADD, REPLACE, ZERO = (
    Relation.ADD_OR_REMOVE_ONE,
    Relation.REPLACE_ONE,
    Relation.REPLACE_SPECIAL,
)
DELTA = 1e-5

EVENTS = {
    "Gaussian": GAUSSIAN(4.0),
    "Poisson": POISSON(0.02, GAUSSIAN(1.0)),
    "without replacement": dp_accounting.SampledWithoutReplacementDpEvent(
        100, 5, GAUSSIAN(3.0)
    ),
    "with replacement": dp_accounting.SampledWithReplacementDpEvent(
        100, 5, GAUSSIAN(4.0)
    ),
    "truncated": dp_accounting.TruncatedSubsampledGaussianDpEvent(100, 0.05, 9, 2.0),
    "mixture": dp_event.MixtureOfGaussiansDpEvent(
        3.0, [0.0, 1.0, 2.0], [0.8, 0.15, 0.05]
    ),
    "Laplace": LAPLACE(8.0),
    "discrete Laplace": dp_event.DiscreteLaplaceDpEvent(0.1, 1),
    "sampled Laplace": POISSON(0.1, LAPLACE(3.0)),
    "zCDP": dp_accounting.ZCDpEvent(0.01, 0.02),
    "tree": dp_accounting.SingleEpochTreeAggregationDpEvent(20.0, [4, 7]),
}
"""Every kind of event that some accountant accepts."""

GRIDDED = (
    "Gaussian",
    "Poisson",
    "without replacement",
    "with replacement",
    "truncated",
)
LIBRARY = ("Laplace", "discrete Laplace", "sampled Laplace")
LOSSES = (*GRIDDED, "mixture", *LIBRARY)
ACCEPTED = {
    (relation, accountant): names
    for relation, names in {
        ADD: (*GRIDDED, "mixture"),
        ZERO: (*GRIDDED, "mixture"),
        REPLACE: GRIDDED,
    }.items()
    for accountant in ("exact", "pld", "rdp")
}
for _relation in (ADD, ZERO):
    ACCEPTED[_relation, "exact"] += (*LIBRARY, "zCDP")
    ACCEPTED[_relation, "pld"] += LIBRARY
    ACCEPTED[_relation, "rdp"] += ("Laplace", "sampled Laplace", "zCDP")
for _relation, _name in itertools.product((ZERO, REPLACE), ("exact", "pld", "rdp")):
    ACCEPTED[_relation, _name] += ("tree",)

ALL = [
    (accountant, relation, name)
    for (relation, accountant), names in ACCEPTED.items()
    for name in names
]
every_event = pytest.mark.parametrize(("accountant", "relation", "name"), ALL)


def slack(spent):
    """Return how far a number may be above the truth, and what is rounded."""
    unknown = math.isnan(spent.error)
    return (1e-3 if unknown else spent.error) + 1e-7 * spent


@pytest.mark.parametrize(("relation", "accountant"), ACCEPTED)
def test_these_events_are_accepted_and_no_others(relation, accountant):
    found = set()
    for name, event in EVENTS.items():
        try:
            event_epsilon(event, DELTA, accountant=accountant, relation=relation)
        except AccountingError:
            continue
        found.add(name)
    assert found == set(ACCEPTED[relation, accountant])


@every_event
def test_a_count_is_that_many_single_events(accountant, relation, name):
    event, options = EVENTS[name], {"accountant": accountant, "relation": relation}
    counted = event_epsilon(REPEATED(event, 6), DELTA, **options)
    single = event_epsilon(COMPOSED([event] * 6), DELTA, **options)
    nested = REPEATED(COMPOSED([event, REPEATED(event, 2)]), 2)
    assert single == pytest.approx(float(counted), rel=1e-9)
    assert event_epsilon(nested, DELTA, **options) == pytest.approx(
        float(counted), rel=1e-9
    )
    once = event_epsilon(event, DELTA, **options)
    assert counted > 1.02 * once


# Where dp_accounting's own account does count, it is a second one.


@pytest.mark.parametrize("name", LIBRARY)
def test_a_count_is_self_composition_of_the_second_librarys_losses(name):
    event = EVENTS[name]
    one_by_one = dp_accounting.pld.PLDAccountant()
    for _ in range(6):
        one_by_one.compose(event)
    expected = one_by_one.get_epsilon(DELTA)
    found = event_epsilon(REPEATED(event, 6), DELTA)
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["Laplace", "sampled Laplace", "zCDP"])
def test_renyi_divergences_of_a_count_are_so_many_times_those_of_one(name):
    orders = np.array([1.5, 4.0, 50.0])
    once, often = (
        of_events.divergences(
            events.take_apart(REPEATED(EVENTS[name], n)), orders, ZERO
        )
        for n in (1, 7)
    )
    np.testing.assert_allclose(often, 7 * once, rtol=1e-12)


def test_what_has_no_loss_distribution_is_answered_by_its_renyi_bound():
    event = COMPOSED([EVENTS["zCDP"], EVENTS["Poisson"]])
    found = event_epsilon(event, DELTA)
    assert found.method == "rdp"
    assert found == event_epsilon(event, DELTA, accountant="rdp")
    assert event_delta(event, found) == pytest.approx(DELTA, rel=1e-6)
    curve = event_curve(event, DELTA, steps=[0, 1, 5])
    assert curve[1] == pytest.approx(float(found), rel=1e-6)
    with pytest.raises(AccountingError, match="ZCDpEvent"):
        event_epsilon(event, DELTA, accountant="pld")


class ExponentialMechanismDpEvent(dp_accounting.DpEvent):
    """An event of a later dp_accounting, whose count its accountant ignores."""


@pytest.mark.parametrize("accountant", ["exact", "pld", "rdp"])
@pytest.mark.parametrize("relation", Relation)
@pytest.mark.parametrize(
    "event",
    [
        # dp_accounting's PLD has 1.0987 for one, and for a hundred.
        dp_event.RandomizedResponseDpEvent(0.5, 2),
        # And its Renyi accountant .1035 for one of these, and for a hundred.
        ExponentialMechanismDpEvent(),
        dp_accounting.UnsupportedDpEvent(),
    ],
    ids=lambda event: type(event).__name__,
)
def test_events_whose_count_the_library_ignores_are_refused(
    event, relation, accountant
):
    for count in (1, 100):
        with pytest.raises(AccountingError, match=type(event).__name__):
            event_epsilon(
                REPEATED(event, count), DELTA, accountant=accountant, relation=relation
            )


# Compositions.


def compositions(names):
    parts = st.tuples(st.sampled_from(names), st.integers(1, 40))
    return st.lists(parts, min_size=1, max_size=4)


def composed(drawn):
    return COMPOSED([REPEATED(EVENTS[name], count) for name, count in drawn])


GRIDS = st.one_of(
    st.tuples(st.sampled_from([ADD, ZERO]), compositions((*GRIDDED, "mixture"))),
    st.tuples(st.just(REPLACE), compositions(GRIDDED)),
)
RENYI = st.one_of(
    st.tuples(st.just(ADD), compositions(ACCEPTED[ADD, "rdp"])),
    st.tuples(st.just(ZERO), compositions(ACCEPTED[ZERO, "rdp"])),
    st.tuples(st.just(REPLACE), compositions(GRIDDED)),
)
MIXED = st.tuples(st.sampled_from([ADD, ZERO]), compositions(("Gaussian", *LIBRARY)))
ANY = [("exact", GRIDS), ("pld", GRIDS), ("rdp", RENYI), ("exact", MIXED)]
IDS = ["exact", "pld", "rdp", "library"]
every_accountant = pytest.mark.parametrize(("accountant", "drawn"), ANY, ids=IDS)
few = settings(max_examples=8, deadline=None)


@every_accountant
@few
@given(data=st.data())
def test_the_order_of_composition_does_not_matter(accountant, drawn, data):
    relation, parts = data.draw(drawn)
    shuffled = data.draw(st.permutations(parts))
    options = {"accountant": accountant, "relation": relation}
    first = event_epsilon(composed(parts), DELTA, **options)
    second = event_epsilon(composed(shuffled), DELTA, **options)
    assert second == pytest.approx(float(first), rel=1e-6, abs=1e-9)


@every_accountant
@few
@given(data=st.data())
def test_one_step_more_never_costs_less(accountant, drawn, data):
    relation, parts = data.draw(drawn)
    more = data.draw(st.sampled_from([name for name, _ in parts]))
    options = {"accountant": accountant, "relation": relation}
    before = event_epsilon(composed(parts), DELTA, **options)
    after = event_epsilon(composed([*parts, (more, 1)]), DELTA, **options)
    assert after >= before - slack(before)
    assert before >= 0


@few
@given(drawn=GRIDS)
def test_the_renyi_bound_is_above_the_exact_epsilon(drawn):
    relation, parts = drawn
    event = composed(parts)
    exact = event_epsilon(event, DELTA, relation=relation)
    bound = event_epsilon(event, DELTA, accountant="rdp", relation=relation)
    assert 0 <= exact <= bound + slack(exact)


@few
@given(data=st.data())
def test_the_renyi_bound_is_above_the_librarys_losses(data):
    relation = data.draw(st.sampled_from([ADD, ZERO]))
    event = composed(data.draw(compositions(("Gaussian", "Laplace"))))
    exact = event_epsilon(event, DELTA, relation=relation)
    bound = event_epsilon(event, DELTA, accountant="rdp", relation=relation)
    assert 0 <= exact <= bound + slack(exact)


@few
@given(drawn=GRIDS, power=st.floats(-8, -1.5))
def test_a_smaller_delta_never_costs_less(drawn, power):
    relation, parts = drawn
    small, large = (
        event_epsilon(composed(parts), 10**exponent, relation=relation)
        for exponent in (power - 0.5, power)
    )
    assert large <= small + slack(large)


@few
@given(drawn=GRIDS)
def test_delta_of_epsilon_of_delta_is_delta(drawn):
    relation, parts = drawn
    event = composed(parts)
    spent = event_epsilon(event, DELTA, relation=relation)
    if spent > 0:
        found = event_delta(event, spent, relation=relation)
        assert found == pytest.approx(DELTA, rel=0.02)


@few
@given(drawn=GRIDS, noise=st.floats(1.0, 3.0))
def test_more_noise_never_costs_more(drawn, noise):
    relation, parts = drawn
    (name, count), *_ = parts
    louder = {
        "Gaussian": GAUSSIAN(4.0 * noise),
        "Poisson": POISSON(0.02, GAUSSIAN(noise)),
        "without replacement": dp_accounting.SampledWithoutReplacementDpEvent(
            100, 5, GAUSSIAN(3.0 * noise)
        ),
        "with replacement": dp_accounting.SampledWithReplacementDpEvent(
            100, 5, GAUSSIAN(4.0 * noise)
        ),
        "truncated": dp_accounting.TruncatedSubsampledGaussianDpEvent(
            100, 0.05, 9, 2.0 * noise
        ),
        "mixture": dp_event.MixtureOfGaussiansDpEvent(
            3.0 * noise, [0.0, 1.0, 2.0], [0.8, 0.15, 0.05]
        ),
    }[name]
    less, more = (
        event_epsilon(REPEATED(event, count), DELTA, relation=relation)
        for event in (louder, EVENTS[name])
    )
    assert less <= more + slack(less)


def test_what_replaces_costs_at_least_what_zeroes_out():
    for name, count in itertools.product(GRIDDED, (1, 30)):
        zeroed, replaced = (
            event_epsilon(REPEATED(EVENTS[name], count), DELTA, relation=relation)
            for relation in (ZERO, REPLACE)
        )
        assert zeroed <= replaced + slack(zeroed)
