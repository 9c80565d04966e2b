"""Group privacy."""

import math

import dp_accounting
import pytest
from accounting_cases import sampled

from dpjax._events import RandomAllocationDpEvent
from dpjax.accounting import AccountingError, event_epsilon, group
from dpjax.accounting.events import NON_PRIVATE, Relation

GAUSSIAN = dp_accounting.GaussianDpEvent
LAPLACE = dp_accounting.LaplaceDpEvent
RUN = sampled(1.0, 0.0064, 782)


def test_two_examples_cost_what_is_published():
    # TF-Privacy's test of compute_dp_sgd_privacy; dp_accounting's grid says 2.5319856.
    epsilon = event_epsilon(group.group_event(RUN, 2), 1e-6)
    assert epsilon == pytest.approx(2.532, abs=5e-4)
    assert epsilon == pytest.approx(2.5319856223658204, rel=1e-4)


@pytest.mark.slow  # dp_accounting takes half a minute.
def test_the_library_agrees_on_three_examples():
    mixture = dp_accounting.pld.PLDAccountant().compose(group.group_event(RUN, 3))
    library = mixture.get_epsilon(1e-6)
    epsilon = event_epsilon(group.group_event(RUN, 3), 1e-6)
    assert epsilon == pytest.approx(library, rel=1e-4)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_group_costs_more_than_one_and_less_than_the_general_conversion(size):
    one = event_epsilon(RUN, 1e-6)
    together = event_epsilon(group.group_event(RUN, size), 1e-6)
    assert one < together
    assert together < group.vadhan_epsilon(RUN, 1e-6, size)


def test_the_general_conversion_of_the_renyi_bound_is_what_is_published():
    # TF-Privacy says 6.43 for 3 examples, at fewer orders, and has none for 10.
    assert group.vadhan_epsilon(RUN, 1e-6, 3, accountant="rdp") == pytest.approx(
        6.43, abs=0.01
    )
    assert group.vadhan_epsilon(RUN, 1e-6, 10, accountant="rdp") == math.inf


@pytest.mark.parametrize("event", [RUN, GAUSSIAN(3.0)])
def test_a_group_of_one_costs_what_one_does(event):
    one = event_epsilon(event, 1e-6)
    assert event_epsilon(group.group_event(event, 1), 1e-6) == one
    assert group.vadhan_epsilon(event, 1e-6, 1) == pytest.approx(one, rel=1e-9)


def test_the_general_conversion_holds_for_a_gaussian():
    # Its truth is known: the noise counts a k-th.
    truth = event_epsilon(GAUSSIAN(10.0 / 4), 1e-6)
    converted = group.vadhan_epsilon(GAUSSIAN(10.0), 1e-6, 4)
    assert truth < converted < 2 * truth


def test_a_distance_below_delta_costs_a_group_nothing():
    # The total variation distance of k steps is at most k times that of one.
    assert group.vadhan_epsilon(sampled(10.0, 1e-6), 1e-5, 3) == 0


@pytest.mark.parametrize("size", [2, 50, 1000])
def test_a_group_that_is_hardly_sampled_keeps_its_mass(size):
    step = group.group_event(sampled(60.0, 1e-7), size).events[0].event
    assert sum(step.sampling_probs) == pytest.approx(1.0, abs=1e-15)
    assert step.sensitivities[-1] == size
    mean = sum(
        c * p for c, p in zip(step.sensitivities, step.sampling_probs, strict=True)
    )
    assert mean >= size * 1e-7 * (1 - 1e-9)


def test_plain_releases_lose_a_part_of_their_noise():
    event = dp_accounting.ComposedDpEvent([GAUSSIAN(6.0), LAPLACE(9.0), NON_PRIVATE])
    parts = [inner.event for inner in group.group_event(event, 3).events]
    assert LAPLACE(3.0) in parts
    assert GAUSSIAN(2.0) in parts
    assert NON_PRIVATE in parts


def test_other_parts_are_refused():
    with pytest.raises(AccountingError, match="ZCDpEvent"):
        group.group_event(dp_accounting.ZCDpEvent(0.1), 2)


ALLOCATED = dp_accounting.SelfComposedDpEvent(
    RandomAllocationDpEvent(10, 1, GAUSSIAN(3.0)), 2
)
REPLACE = Relation.REPLACE_ONE


@pytest.mark.parametrize("event", [RUN, GAUSSIAN(3.0)])
@pytest.mark.parametrize("size", [1, 2])
def test_what_is_known_best_is_the_group_event_where_there_is_one(event, size):
    best = group.group_epsilon(event, 1e-6, size)
    assert best == event_epsilon(group.group_event(event, size), 1e-6)


@pytest.mark.parametrize(
    ("event", "relation"),
    [(ALLOCATED, Relation.ADD_OR_REMOVE_ONE), (GAUSSIAN(8.0), REPLACE)],
)
def test_what_is_known_best_is_the_general_conversion_elsewhere(event, relation):
    best = group.group_epsilon(event, 1e-6, 2, relation=relation)
    assert best == group.vadhan_epsilon(event, 1e-6, 2, relation=relation)
    assert best > event_epsilon(event, 1e-6, relation=relation)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_line_of_a_report_promises_no_more_than_holds(size):
    line = group.group_statement(RUN, 1e-6, size)
    start, number = line.removesuffix(" at delta = 1e-06.").split(": epsilon = ")
    truth = group.group_epsilon(RUN, 1e-6, size)
    assert truth <= float(number) < truth * 1.001
    assert start == f"For a person with at most {size} example{'s' * (size > 1)}"


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (NON_PRIVATE, "nothing is promised."),
        (dp_accounting.NoOpDpEvent(), "epsilon = 0 at delta = 0.01."),
        (GAUSSIAN(1e-2), "epsilon = "),
    ],
)
def test_the_line_has_words_for_nothing_and_for_everything(event, words):
    assert f"examples: {words}" in group.group_statement(event, 0.01, 3)


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_out_of_range_is_named(size):
    with pytest.raises(ValueError, match=f"num_examples={size}"):
        group.group_event(RUN, size)
    with pytest.raises(ValueError, match=f"num_examples={size}"):
        group.vadhan_epsilon(RUN, 1e-6, size)
