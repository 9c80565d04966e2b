"""The contour integral."""

import math

import dp_accounting
import numpy as np
import pytest
from exact_cases import FEW_SEGMENTS

from dpjax.accounting.contours import contour, one_step
from dpjax.accounting.contours.quadrature import TooManyNodesError
from dpjax.accounting.contours.saddle import Side, WeakContourError
from dpjax.accounting.laws.privacy_loss import SampledGaussian

ONCE = np.ones(1)


def side_of(segments, added=False, replace_one=False):
    pairs = [SampledGaussian(s, q, replace_one) for s, q, _ in segments]
    return Side(pairs, np.array([float(n) for _, _, n in segments]), added)


# A single step of much sampling and little noise has a closed form, and needs no other.
ANSWERED = [case for case in FEW_SEGMENTS if case["id"] != "corner-T1-0.3-0.5"]


@pytest.mark.parametrize("case", ANSWERED, ids=[case["id"] for case in ANSWERED])
def test_nearly_every_case_is_answered(case):
    answers = contour.solve(side_of(case["segments"]), ONCE, case["delta"])
    assert answers.values[0] == pytest.approx(case["epsilon"], rel=case["tolerance"])


# Adding costs so little in these that no contour is needed: see `saddle.bounds`.
WEAK = {"pub-tfp-test2", "corner-T1-0.5-0.1", "corner-T1-0.3-0.5", "corner-T2-1-0.01"}
BOTH = [case for case in FEW_SEGMENTS if case["added"] and case["id"] not in WEAK]


@pytest.mark.parametrize("case", BOTH, ids=[case["id"] for case in BOTH])
def test_adding_one_has_its_own_epsilon(case):
    answers = contour.solve(side_of(case["segments"], added=True), ONCE, case["delta"])
    # Two references are rougher in this direction.
    rough = "tinyq" in case["id"] or "s0.3" in case["id"]
    tolerance = 2e-9 if rough else 1e-11
    assert answers.values[0] == pytest.approx(case["added"], rel=tolerance)


@pytest.mark.parametrize(("noise", "count"), [(1.0, 1), (5.0, 30), (300.0, 10**6)])
@pytest.mark.parametrize("delta", [1e-2, 1e-8, 1e-15])
def test_plain_releases_have_their_closed_form(noise, count, delta):
    truth = dp_accounting.get_epsilon_gaussian(noise / math.sqrt(count), delta)
    answers = contour.solve(side_of([(noise, 1.0, count)]), ONCE, delta)
    assert answers.values[0] == pytest.approx(truth, rel=1e-10)


@pytest.mark.parametrize("replace_one", [False, True])
@pytest.mark.parametrize(("noise", "rate"), [(0.5, 0.3), (1.0, 0.02), (50.0, 0.01)])
def test_one_step_has_its_closed_form(noise, rate, replace_one):
    side = side_of([(noise, rate, 1)], replace_one=replace_one)
    epsilon, _ = one_step.epsilon(side.pairs[0], 1e-7)
    try:
        answers = contour.solve(side, ONCE, 1e-7)
    except (WeakContourError, TooManyNodesError):
        pytest.skip("a single step may be too few for a contour")
    assert answers.values[0] == pytest.approx(epsilon, rel=1e-9)


def test_one_line_serves_several_numbers_of_steps():
    side, steps = side_of([(1.0, 0.01, 1)]), np.array([900.0, 1000.0, 1300.0])
    together = contour.solve(side, steps, 1e-5)
    assert np.isfinite(together.errors).all()
    for number, value in zip(steps, together.values, strict=True):
        alone = contour.solve(side, np.array([number]), 1e-5).values[0]
        assert value == pytest.approx(alone, rel=1e-11)


def test_numbers_of_steps_too_far_for_the_line_have_no_error():
    side, steps = side_of([(1.0, 0.01, 1)]), np.array([100.0, 1e6])
    answers = contour.solve(side, steps, 1e-5)
    assert np.isfinite(answers.errors).tolist() == [True, False]


@pytest.mark.parametrize("steps", [10, 20, 5000])
def test_log_delta_undoes_epsilon(steps):
    side = side_of([(1.0, 0.004, steps)])
    epsilon = contour.solve(side, ONCE, 1e-6).values[0]
    log_delta, error = contour.log_delta(side, epsilon)
    assert log_delta == pytest.approx(math.log(1e-6), abs=1e-9)
    assert 0 < error < 1e-8


def test_deltas_far_below_all_floats_are_found():
    # With s = 0.1 a plain release has the loss N(50, 100); delta(epsilon) is below
    # the normal tail at (epsilon - 50) / 10 = 60, whose log is about -1805.
    log_delta, _ = contour.log_delta(side_of([(0.1, 1.0, 1)]), 650.0)
    assert log_delta == pytest.approx(-1808, abs=8)


def test_the_guess_changes_nothing():
    side = side_of([(1.0, 0.004, 20)])
    epsilon = contour.solve(side, ONCE, 1e-6).values[0]
    guessed = contour.solve(side, ONCE, 1e-6, guess=1.01 * epsilon).values[0]
    assert guessed == pytest.approx(epsilon, rel=1e-10)
