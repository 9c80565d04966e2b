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


def curve(steps):
    return step_curve.upper(SIDE, steps, 1e-5, np.zeros(steps.size), single)


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
    assert step_curve.upper(SIDE, steps, 1e-5, known, single).tolist() == [50.0, 50.0]


def test_steps_without_a_contour_are_bounded_by_later_ones(monkeypatch):
    def weak(*_args):
        raise WeakContourError

    monkeypatch.setattr(contour, "solve", weak)
    asked = []

    def costly(number):
        asked.append(number)
        return number

    steps = np.arange(100.0, 140.0)
    values = step_curve.upper(SIDE, steps, 1e-5, np.zeros(steps.size), costly)
    assert (values >= steps).all()
    assert (values <= 1.25 * steps).all()
    assert len(asked) < 12


@pytest.mark.parametrize("steps", [[], [0.0]])
def test_nothing_costs_nothing(steps):
    numbers = np.array([n for n in steps if n > 0])
    assert curve(numbers).shape == (0,)
