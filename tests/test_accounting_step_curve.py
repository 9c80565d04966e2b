"""Epsilon after many numbers of steps."""

import numpy as np
import pytest

from dpjax.accounting import exact_epsilon
from dpjax.accounting.contours import contour, step_curve
from dpjax.accounting.contours.saddle import Side, WeakContourError
from dpjax.accounting.laws.privacy_loss import SampledGaussian

SIDE = Side([SampledGaussian(1.0, 0.01)], np.ones(1), False)
STEP = {"noise_multiplier": 1.0, "sampling_prob": 0.01, "delta": 1e-5}


def single(number):
    return float(exact_epsilon(num_steps=int(number), **STEP))


def without_contour(numbers):
    return np.array([single(number) for number in numbers])


def curve(steps):
    known = np.zeros(steps.size)
    return step_curve.upper(SIDE, steps, 1e-5, known, single, without_contour)


def test_interpolated_epsilons_are_the_exact_ones():
    steps = np.arange(300.0, 4000.0, 7.0)
    values = curve(steps)
    for index in (0, 1, 100, 333, steps.size - 1):
        truth = exact_epsilon(num_steps=int(steps[index]), **STEP)
        assert truth - truth.error <= values[index] <= truth * (1 + 1e-8)


def test_a_contour_serves_many_numbers_of_steps(monkeypatch):
    calls = []
    original = contour.solve

    def counting(*args):
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(contour, "solve", counting)
    curve(np.arange(1000.0, 2000.0))
    assert 1 <= len(calls) <= 4


def test_values_known_to_be_larger_stay():
    steps = np.array([10.0, 100.0])
    known = np.array([50.0, 50.0])
    values = step_curve.upper(SIDE, steps, 1e-5, known, single, without_contour)
    assert values.tolist() == [50.0, 50.0]


def weak(*_args):
    raise WeakContourError


@pytest.mark.parametrize("zeros", [0, 130])
def test_steps_without_a_contour_are_interpolated_and_rounded_up(monkeypatch, zeros):
    monkeypatch.setattr(contour, "solve", weak)
    asked = []

    def costly(numbers):
        asked.extend(numbers)
        return np.sqrt(np.maximum(numbers - zeros, 0.0))

    steps = np.arange(100.0, 5000.0)
    known = np.zeros(steps.size)
    values = step_curve.upper(SIDE, steps, 1e-5, known, weak, costly)
    truth = np.sqrt(np.maximum(steps - zeros, 0.0))
    assert (values >= truth * (1 - 1e-9)).all()
    assert (np.diff(values) >= 0).all()
    assert (values[2000:] <= 1.01 * truth[2000:]).all()
    if not zeros:
        assert values == pytest.approx(truth, rel=1e-3)
    assert len(asked) < 40


def test_values_next_to_nothing_are_bounded_by_later_ones(monkeypatch):
    monkeypatch.setattr(contour, "solve", weak)

    def costly(numbers):
        return np.where(numbers < 1590, 0.0, 1.0)

    steps = np.arange(100.0, 1600.0)
    known = np.zeros(steps.size)
    values = step_curve.upper(SIDE, steps, 1e-5, known, weak, costly)
    assert (values >= costly(steps)).all()
    assert values[0] == 0.0


@pytest.mark.parametrize("steps", [[], [0.0]])
def test_nothing_costs_nothing(steps):
    numbers = np.array([n for n in steps if n > 0])
    assert curve(numbers).shape == (0,)
