"""The accountant with a proof."""

import dp_accounting
import hypothesis
import pytest
from accounting_cases import sampled
from exact_cases import FEW_IDS, FEW_SEGMENTS, event
from hypothesis import strategies as st

from dpjax.accounting import AccountingError, certified, event_delta, event_epsilon
from dpjax.accounting.events import Relation, take_apart

ADD = Relation.ADD_OR_REMOVE_ONE


@pytest.mark.parametrize("case", FEW_SEGMENTS, ids=FEW_IDS)
def test_the_bound_is_not_below_the_truth_and_within_two_parts_in_ten_thousand(case):
    bound = event_epsilon(event(case), case["delta"], accountant="certified")
    truth = event_epsilon(event(case), case["delta"])
    assert truth - truth.error <= bound <= case["epsilon"] * (1 + 2e-4)
    assert bound.method == "certified"


@hypothesis.given(
    st.floats(0.3, 20.0),
    st.floats(-4.0, -0.05),
    st.floats(0.0, 5.0),
    st.floats(-10.0, -1.0),
    st.sampled_from(list(Relation)),
)
@hypothesis.settings(max_examples=25, deadline=None)
def test_the_bound_is_never_below_the_exact_value(noise, rate, steps, delta, relation):
    run = sampled(noise, 10**rate, int(10**steps))
    truth = event_epsilon(run, 10**delta, relation=relation)
    bound = event_epsilon(run, 10**delta, relation=relation, accountant="certified")
    assert bound >= truth - truth.error


def test_error_says_how_far_the_exact_value_is():
    run = sampled(1.0, 0.01, 1000)
    truth = event_epsilon(run, 1e-5)
    bound = event_epsilon(run, 1e-5, accountant="certified")
    assert bound - bound.error == pytest.approx(truth - truth.error, rel=1e-12)


def test_a_certified_delta_is_not_below_the_exact_one():
    run = sampled(1.0, 0.01, 1000)
    exact = event_delta(run, 2.0)
    bound = event_delta(run, 2.0, accountant="certified")
    assert exact <= bound <= 1.01 * exact


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (dp_accounting.LaplaceDpEvent(1.0), "Gaussian releases"),
        (sampled(0.05, 0.1, 3), "at least 1/16"),
    ],
)
def test_what_has_no_proof_is_refused(other, message):
    with pytest.raises(AccountingError, match=message):
        certified.epsilon(take_apart(other), 1e-5, ADD)


def test_curve_holds_the_bound_of_each_number_of_steps():
    parts = take_apart(sampled(1.0, 0.05))
    curve = certified.curve(parts, 1e-5, ADD, [0, 7])
    alone = event_epsilon(sampled(1.0, 0.05, 7), 1e-5, accountant="certified")
    assert curve.tolist() == [0.0, alone]
