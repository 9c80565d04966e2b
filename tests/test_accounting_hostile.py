"""Hostile numbers: a bound that is above the truth, or a typed error, and no third.

What an epsilon may not be below comes from tests that tell neighbours apart, in mpmath
(`hostile_oracle`); what it need not exceed, from a world without sampling.
"""

import itertools
import math
import warnings

import dp_accounting
import hostile_oracle
import hostile_runs as hostile
import numpy as np
import pairwise
import pytest
from accounting_cases import sampled
from hostile_runs import ADD, REPLACE, has_account

from dpjax import accounting

SLACK = 1e-9
"""Of logarithms of delta."""


def answered(question):
    """Return an answer, or None where it is refused in the house's own words.

    Neither a warning nor any other error is one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return question()
        except (ValueError, TypeError) as error:
            if not str(error).startswith("Expected "):
                raise
            return None


def spent(row):
    """Return a row's epsilon, None where it is refused."""

    def question():
        plan = hostile.plan_of(row)
        return plan.epsilon(row["delta"], accountant=row["accountant"])

    return answered(question)


def assert_is_a_bound(row, epsilon):
    assert 0 <= epsilon < math.inf, row
    assert epsilon <= hostile.most_epsilon(row), row
    lower = hostile.log_delta(row, float(epsilon))
    assert lower <= math.log(row["delta"]) + SLACK, row


def check(rows):
    """Check all rows, and return how many of them have an epsilon."""
    found = 0
    for row in rows:
        epsilon = spent(row)
        if epsilon is not None:
            assert has_account(row), row
            assert_is_a_bound(row, epsilon)
            found += 1
    return found


def is_quick(row):
    """Leave out sums over random steps of losses that are next to nothing."""
    allocated = row["sampler"] in ("balls in bins", "random allocation")
    slow = row["noise"] > 1e3 or row["rate"] < 1e-3
    return has_account(row) and not (allocated and slow)


QUICK = hostile.AXES | {"accountant": ("exact", "rdp")}


def test_every_two_hostile_numbers_give_a_bound_or_a_typed_error():
    rows = pairwise.rows(QUICK, is_quick, tries=200)
    assert check(rows) > 0.7 * len(rows)


def test_pairs_without_an_account_are_refused():
    rows = pairwise.rows(QUICK, lambda row: not has_account(row), tries=20)
    assert len(rows) > 20
    assert check(rows) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_more_hostile_numbers_give_a_bound_or_a_typed_error(seed):
    rows = pairwise.rows(hostile.AXES, is_quick, seed)
    assert check(rows) > 0.5 * len(rows)


POISSON = {
    "noise": hostile.AXES["noise"],
    "rate": (1e-12, 1e-6, 0.01, 0.5, 1 - 1e-12, 1.0),
    "steps": hostile.AXES["steps"],
    "delta": hostile.AXES["delta"],
    "relation": (ADD, REPLACE),
}
"""All numbers with all others: the settings of events, which know of no data set."""


def rows_of(axes):
    return [
        dict(zip(axes, values, strict=True))
        for values in itertools.product(*axes.values())
    ]


def event_of(row):
    return sampled(row["noise"], row["rate"], row["steps"])


def epsilon_of(row, accountant):
    return answered(
        lambda: accounting.event_epsilon(
            event_of(row), row["delta"], accountant=accountant, relation=row["relation"]
        )
    )


def check_poisson(rows, accountant):
    found = 0
    for row in rows:
        epsilon = epsilon_of(row, accountant)
        if epsilon is not None:
            assert_is_a_bound(row | {"sampler": "Poisson"}, epsilon)
            found += 1
    return found


@pytest.mark.slow
@pytest.mark.parametrize("noise", POISSON["noise"])
@pytest.mark.parametrize(
    ("accountant", "least"),
    [("exact", 1.0), ("rdp", 1.0), ("pld", 1.0), ("certified", 0.25)],
)
def test_all_hostile_numbers_give_a_bound_or_a_typed_error(accountant, least, noise):
    # The certified accountant refuses sampled steps with less noise than 1/16.
    rows = rows_of(POISSON | {"noise": (noise,)})
    assert len(rows) == 360
    assert check_poisson(rows, accountant) >= least * len(rows)


# What was below the truth, infinite, endless or warned of, each once.
FOUND = [
    ("pld", 30.0, 0.5, 10**9, 0.999),  # A coarse grid's losses left their window.
    ("pld", 30.0, 0.5, 10**9, 0.9),
    ("exact", 0.3, 1e-12, 1000, 1e-12),  # A window grew to 2^28 points.
    ("exact", 0.3, 1 - 1e-12, 10**6, 0.5),  # NumPy warned of an overflow.
    ("pld", 0.3, 0.5, 1000, 1e-300),  # Infinite, where a Renyi bound was not.
    ("certified", 1.0, 0.5, 10**9, 1e-5),  # Infinite, where a closed form was not.
]


@pytest.mark.parametrize(("accountant", "noise", "rate", "steps", "delta"), FOUND)
def test_what_was_found_once_is_a_bound(accountant, noise, rate, steps, delta):
    row = {"noise": noise, "rate": rate, "steps": steps, "delta": delta}
    assert check_poisson([row | {"relation": ADD}], accountant) == 1


@pytest.mark.parametrize("rate", [5e-324, 1e-310, 1e-200])
@pytest.mark.parametrize("noise", [0.3, 785423.0, 1e100])
@pytest.mark.parametrize("accountant", ["exact", "rdp"])
def test_rates_next_to_nothing_cost_next_to_nothing(accountant, noise, rate):
    row = {"noise": noise, "rate": rate, "steps": 119247, "delta": 1e-5}
    assert epsilon_of(row | {"relation": ADD}, accountant) == 0


def test_curve_of_a_delta_that_no_grid_tells_is_that_of_single_answers():
    parts = accounting.events.take_apart(sampled(0.3, 0.5))
    curve = accounting.pld.curve(parts, 1e-300, ADD, [0, 1000])
    single = accounting.event_epsilon(sampled(0.3, 0.5, 1000), 1e-300, accountant="pld")
    assert curve.tolist() == [0.0, float(single)]


MONOTONE = {"noise": -1, "rate": 1, "steps": 1, "delta": -1}
"""Which way epsilon goes with each number."""


@pytest.mark.slow
@pytest.mark.parametrize("accountant", ["exact", "rdp"])
@pytest.mark.parametrize("name", MONOTONE)
def test_epsilon_goes_the_way_of_each_hostile_number(name, accountant):
    """More noise or delta costs less, more data or steps cost more."""
    rest = {key: values for key, values in POISSON.items() if key != name}
    for row in pairwise.rows(rest, tries=200)[::3]:
        values = [
            epsilon_of(row | {name: value}, accountant) for value in POISSON[name]
        ]
        known = np.array([float(value) for value in values if value is not None])
        slack = 1e-9 + 1e-9 * known[1:]
        # Without a contour, the least of three bounds takes its place.
        slack += 0.05 * known[1:] * (accountant == "exact")
        assert (MONOTONE[name] * np.diff(known) >= -slack).all(), (row, known)


def delta_question(row, epsilon):
    event = event_of(row)
    return accounting.event_delta(event, epsilon, relation=row["relation"])


@pytest.mark.slow
def test_delta_at_a_hostile_epsilon_is_no_larger_than_the_one_asked_for():
    rows = pairwise.rows(POISSON, tries=200)
    told = 0
    for row in rows:
        epsilon = epsilon_of(row, "exact")
        found = answered(lambda: delta_question(row, float(epsilon)))
        if found is not None:
            assert -math.inf < found.log <= 0 or row["delta"] == 1, row
            lower = hostile.log_delta(row | {"sampler": "Poisson"}, float(epsilon))
            assert found.log >= lower - SLACK, row
            told += 1
    assert told > 0.9 * len(rows)


QUESTIONS = {
    "rho": lambda row: accounting.zero_concentrated_dp(event_of(row)),
    "group": lambda row: accounting.group_epsilon(event_of(row), row["delta"], 3),
    "naive group": lambda row: accounting.vadhan_epsilon(
        event_of(row), row["delta"], 3
    ),
    "curve": lambda row: accounting.event_curve(
        sampled(row["noise"], row["rate"]), row["delta"], steps=[1, row["steps"]]
    )[-1],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", QUESTIONS)
def test_other_questions_with_hostile_numbers_have_an_answer_above_the_plain_one(name):
    """What a group or a curve costs is no less than what one example must."""
    axes = {key: POISSON[key] for key in ("noise", "rate", "steps", "delta")}
    answers = 0
    for row in pairwise.rows(axes, tries=200)[::3]:
        found = answered(lambda: QUESTIONS[name](row))
        if found is None:
            continue
        answers += 1
        assert found >= 0, row
        if name != "rho" and found < math.inf:
            lower = hostile_oracle.log_delta(
                float(found), row["noise"], row["rate"], row["steps"]
            )
            assert lower <= math.log(row["delta"]) + SLACK, row
        if name == "rho":
            plain = row["steps"] / (2 * row["noise"] ** 2)
            assert found <= plain * (1 + 1e-9), row
    assert answers > 8


CALIBRATED = [
    (1e-3, 1e-300, 1e-6, 10**9),
    (1e-3, 1e-12, 0.5, 1),
    (1e3, 1e-300, 1.0, 10**6),
    pytest.param(1e3, 1e-5, 1e-12, 10**9, marks=pytest.mark.slow),
    (1.0, 0.5, 1e-12, 10**9),
    (1.0, 1e-100, 0.01, 1000),
]


@pytest.mark.parametrize(("target", "delta", "rate", "steps"), CALIBRATED)
def test_noise_for_hostile_numbers_keeps_to_its_target(target, delta, rate, steps):
    settings = {"sampling_prob": rate, "num_steps": steps}
    noise = answered(
        lambda: accounting.calibrate_noise_multiplier(
            target_epsilon=target, delta=delta, **settings
        )
    )
    if noise is None:
        return  # Every noise of the range keeps to it, or none does.
    lower = hostile_oracle.log_delta(target, noise, rate, steps)
    assert lower <= math.log(delta) + SLACK
    spent = accounting.event_epsilon(sampled(noise, rate, steps), delta)
    assert spent <= target


def test_the_oracle_knows_the_gaussian_mechanism_and_finds_what_is_below_it():
    truth = dp_accounting.get_epsilon_gaussian(1.0 / math.sqrt(50), 1e-9)
    at_truth = hostile_oracle.log_delta(truth, 1.0, 1.0, 50)
    assert at_truth == pytest.approx(math.log(1e-9), rel=1e-6)
    below = hostile_oracle.log_delta(truth * 0.999, 1.0, 1.0, 50)
    assert below > math.log(1e-9) + 0.01


@pytest.mark.parametrize("delta", [1e-300, 1e-12, 0.5])
@pytest.mark.parametrize("rate", [1e-12, 0.01, 0.5])
def test_the_oracle_is_next_to_the_truth_of_a_single_sampled_step(delta, rate):
    epsilon = accounting.event_epsilon(sampled(0.3, rate), delta)
    found = hostile_oracle.log_delta(float(epsilon), 0.3, rate, 1)
    if epsilon == 0:
        assert found <= math.log(delta)
    else:
        assert found == pytest.approx(math.log(delta), abs=1e-3)
