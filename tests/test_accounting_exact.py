"""The exact accountant."""

import math

import dp_accounting
import hypothesis
import numpy as np
import pytest
from accounting_cases import sampled
from exact_cases import CASES, FEW_IDS, FEW_SEGMENTS, event
from hypothesis import strategies as st

from dpjax.accounting import (
    AccountingError,
    event_delta,
    event_epsilon,
    exact,
    exact_epsilon,
    pld_epsilon,
    rdp,
    rdp_epsilon,
)
from dpjax.accounting.events import Relation, take_apart

ADD = Relation.ADD_OR_REMOVE_ONE
REPLACE = Relation.REPLACE_ONE

runs = st.fixed_dictionaries(
    {
        "noise_multiplier": st.floats(0.3, 30.0),
        "sampling_prob": st.floats(-5.0, -0.01).map(lambda x: 10**x),
        "num_steps": st.floats(0.0, 6.0).map(lambda x: int(10**x)),
        "delta": st.floats(-14.0, -1.0).map(lambda x: 10**x),
    }
)


@pytest.mark.parametrize("case", FEW_SEGMENTS, ids=FEW_IDS)
def test_epsilon_is_the_reference_within_its_tolerance(case):
    epsilon = event_epsilon(event(case), case["delta"])
    assert epsilon == pytest.approx(case["epsilon"], rel=case["tolerance"])
    assert epsilon.method == "exact"
    assert epsilon.error <= 1e-6 * epsilon


@pytest.mark.slow
def test_epsilon_of_a_thousand_segments_is_the_reference():
    (case,) = (case for case in CASES if case not in FEW_SEGMENTS)
    epsilon = event_epsilon(event(case), case["delta"])
    assert epsilon == pytest.approx(case["epsilon"], rel=case["tolerance"])


@pytest.mark.parametrize("case", FEW_SEGMENTS, ids=FEW_IDS)
def test_error_covers_the_distance_to_the_reference(case):
    if case["tolerance"] > 1e-9:
        pytest.skip("the reference is not good enough")
    epsilon = event_epsilon(event(case), case["delta"])
    # References are good to 2e-12, and that of the closed form is rounded to 1e-12.
    slack = 3e-12 * case["epsilon"]
    assert epsilon >= case["epsilon"] - slack
    assert epsilon - epsilon.error <= case["epsilon"] + slack


# Grids of 1/16 of the default interval, with their quadratic excess extrapolated away
# and the 2e-6 of delta that they pay for rounding given back.
@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta", "expected", "slack"),
    [
        (1.0, 1e-6, 10**6, 1e-9, 0.00590290778 - 9.48e-10, 1e-8),
        (0.3, 1e-3, 1000, 1e-5, 18.14461343 - 3.24e-6, 1e-7),
        (1.0, 0.01, 2, 1e-5, 0.2454661093 - 1.33e-7, 1e-8),
    ],
)
def test_epsilon_agrees_with_finer_and_finer_grids(
    noise, rate, steps, delta, expected, slack
):
    epsilon = event_epsilon(sampled(noise, rate, steps), delta)
    assert epsilon == pytest.approx(expected, rel=slack)


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "grid"),
    [(1.0, 0.01, 1000, 2.8434458118173023), (1.5, 0.04, 2250, 13.488478783406997)],
)
def test_replacing_one_agrees_with_the_librarys_grid(noise, rate, steps, grid):
    epsilon = event_epsilon(sampled(noise, rate, steps), 1e-5, relation=REPLACE)
    assert epsilon <= grid
    assert epsilon == pytest.approx(grid, rel=1e-4)


@pytest.mark.parametrize("relation", [ADD, REPLACE])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_few_steps_of_nearly_no_sampling_cost_nearly_nothing(steps, relation):
    parts = take_apart(sampled(1.0, 1e-9, steps))
    assert exact.epsilon(parts, 1e-8, relation) == 0
    assert 0 < exact.epsilon(parts, 1e-11, relation) < 1


@hypothesis.given(runs)
@hypothesis.settings(max_examples=30, deadline=None)
def test_epsilon_is_at_most_that_of_a_grid_and_of_the_renyi_bound(run):
    epsilon = exact_epsilon(**run)
    least = epsilon - 1.001 * epsilon.error
    assert least <= pld_epsilon(**run)
    assert least <= rdp_epsilon(**run)


@hypothesis.given(runs)
@hypothesis.settings(max_examples=20, deadline=None)
def test_delta_at_epsilon_is_delta(run):
    hypothesis.assume(exact_epsilon(**run) > 1e-6)
    epsilon = exact_epsilon(**run)
    hypothesis.assume(epsilon.method == "exact")
    step = sampled(run["noise_multiplier"], run["sampling_prob"], run["num_steps"])
    delta = event_delta(step, epsilon - epsilon.error / 2)
    hypothesis.assume(delta.method == "exact")
    # What epsilon's error is worth in delta is at most its tilt times it.
    assert delta.log == pytest.approx(math.log(run["delta"]), abs=1e-6)


@hypothesis.given(st.permutations([(1.0, 0.01, 300), (0.7, 0.001, 80), (3.0, 0.2, 9)]))
@hypothesis.settings(max_examples=6, deadline=None)
def test_order_of_composition_does_not_matter(order):
    first = dp_accounting.ComposedDpEvent([sampled(*run) for run in order])
    other = dp_accounting.ComposedDpEvent([sampled(*run) for run in order[::-1]])
    assert event_epsilon(first, 1e-6) == pytest.approx(
        event_epsilon(other, 1e-6), rel=1e-11
    )


@pytest.mark.parametrize("count", [2, 5, 400])
def test_composing_n_times_is_composing_n_of_them(count):
    step = sampled(0.9, 0.02)
    repeated = dp_accounting.SelfComposedDpEvent(step, count)
    listed = dp_accounting.ComposedDpEvent([step] * count)
    assert event_epsilon(repeated, 1e-6) == event_epsilon(listed, 1e-6)


def test_segments_that_differ_by_nothing_are_one_segment():
    whole = sampled(1.0, 0.01, 1000)
    halves = [sampled(1.0, 0.01, 400), sampled(1.0 + 1e-15, 0.01, 600)]
    apart = event_epsilon(dp_accounting.ComposedDpEvent(halves), 1e-5)
    assert apart == pytest.approx(event_epsilon(whole, 1e-5), rel=1e-11)


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta"),
    [
        (1.0, 0.01, 1000, 1e-300),
        (1.0, 1e-12, 10**9, 1e-10),
        (1.0, 1e-12, 10, 1e-300),
        (1e-3, 0.01, 10**4, 1e-5),
        (1e6, 0.5, 10**9, 1e-5),
        (1e6, 1e-12, 1, 1e-300),
        (1e-3, 1e-12, 10**9, 1e-300),
        (0.5, 0.3, 10**9, 1e-2),
        (1.0, 1 - 1e-12, 50, 1e-9),
        (0.05, 0.5, 1, 1e-5),
        (1.0, 0.5, 10, 0.999),
        (1e-3, 1 - 1e-9, 30, 1e-5),
        (1.0, 1e-12, 10**9, 1e-300),
    ],
)
@pytest.mark.parametrize("relation", [ADD, REPLACE])
def test_hostile_settings_give_a_bound_or_a_typed_error(
    noise, rate, steps, delta, relation
):
    try:
        epsilon = event_epsilon(sampled(noise, rate, steps), delta, relation=relation)
    except AccountingError:
        return
    plain = dp_accounting.GaussianDpEvent(noise / math.sqrt(steps))
    unsampled = event_epsilon(plain, delta, relation=relation)
    assert 0 <= epsilon <= unsampled * (1 + 1e-9)
    bound = rdp.epsilon(take_apart(sampled(noise, rate, steps)), delta, relation)
    assert epsilon <= bound * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "epsilon"),
    [
        (0.02, 0.1, 200, 0.0),
        (0.02, 0.1, 2, 1e4),
        (0.06, 0.5, 2, 1e4),
        (1.0, 0.1, 2, 1e4),
        (1.0, 0.999, 200, 1e4),
        (1e4, 1e-4, 10**5, 0.5),
        (1e4, 0.1, 2, 0.5),
        (1e4, 0.5, 10**5, 50.0),
        (1e-3, 1e-4, 200, 50.0),
    ],
)
def test_hostile_settings_have_a_delta(noise, rate, steps, epsilon):
    delta = event_delta(sampled(noise, rate, steps), epsilon)
    plain = dp_accounting.GaussianDpEvent(noise / math.sqrt(steps))
    assert 0 <= delta <= min(1.0, event_delta(plain, epsilon) * (1 + 1e-6) + 1e-240)
    assert -math.inf <= delta.log <= 0


@pytest.mark.parametrize("relation", [ADD, REPLACE])
def test_curve_holds_the_epsilon_of_each_number_of_steps(relation):
    parts = take_apart(sampled(1.0, 0.01))
    steps = [0, 1, 2, 3, 50, 51, 5000]
    curve = exact.curve(parts, 1e-5, relation, steps)
    single = [
        event_epsilon(sampled(1.0, 0.01, n), 1e-5, relation=relation) for n in steps
    ]
    np.testing.assert_allclose(curve, single, rtol=1e-8)


def test_other_events_are_the_pld_accountants():
    epsilon = event_epsilon(dp_accounting.LaplaceDpEvent(1.0), 1e-5)
    assert (epsilon.method, math.isnan(epsilon.error)) == ("pld", True)
    assert event_delta(dp_accounting.LaplaceDpEvent(1.0), epsilon) <= 1.1e-5
