"""Epsilon over the steps of a run."""

import math

import dp_accounting
import numpy as np
import pytest

from dpjax.accounting import (
    epsilon_curve,
    event_curve,
    event_epsilon,
    exact_epsilon,
    pld_epsilon,
    rdp_epsilon,
)
from dpjax.accounting.events import Relation

STEP = {"noise_multiplier": 1.0, "sampling_prob": 0.02, "delta": 1e-5}
EPSILON_OF = {"exact": exact_epsilon, "pld": pld_epsilon, "rdp": rdp_epsilon}


@pytest.mark.parametrize("accountant", ["exact", "pld", "rdp"])
@pytest.mark.parametrize("rate", [0.02, 1.0])
def test_curve_agrees_with_single_numbers(accountant, rate):
    step = STEP | {"sampling_prob": rate}
    steps = [0, 1, 5, 5, 400]
    curve = epsilon_curve(steps=steps, accountant=accountant, **step)
    singles = [EPSILON_OF[accountant](num_steps=n, **step) for n in steps]
    assert curve.dtype == np.float64
    np.testing.assert_allclose(curve, singles, rtol=1e-4)
    assert curve[0] == 0


@pytest.mark.parametrize("accountant", ["exact", "pld", "rdp"])
def test_curve_never_decreases(accountant):
    curve = epsilon_curve(steps=range(40), accountant=accountant, **STEP)
    assert (np.diff(curve) >= 0).all()


@pytest.mark.parametrize("accountant", ["exact", "pld", "rdp"])
def test_ends_of_the_curve_are_defined(accountant):
    without_noise = STEP | {"noise_multiplier": 0.0}
    curve = epsilon_curve(steps=[0, 1], accountant=accountant, **without_noise)
    assert curve.tolist() == [0.0, math.inf]
    assert epsilon_curve(steps=[], accountant=accountant, **STEP).shape == (0,)
    assert epsilon_curve(steps=[0], accountant=accountant, **STEP).tolist() == [0.0]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"steps": [2, 1]}, ValueError, "increasing order, got steps="),
        ({"steps": [-1]}, ValueError, "steps=-1"),
        ({"steps": [1.5]}, TypeError, "steps=1.5"),
        ({"delta": 0.0}, ValueError, "delta=0.0"),
        ({"sampling_prob": 2.0}, ValueError, "sampling_prob=2.0"),
        ({"accountant": "gdp"}, ValueError, "'certified', got accountant='gdp'"),
    ],
)
def test_a_setting_out_of_range_is_named(wrong, error, message):
    with pytest.raises(error, match=message):
        epsilon_curve(**({"steps": [1]} | STEP | wrong))


EVENTS = {
    "Laplace": (dp_accounting.LaplaceDpEvent(20.0), Relation.ADD_OR_REMOVE_ONE),
    "fixed size": (
        dp_accounting.SampledWithoutReplacementDpEvent(
            100, 5, dp_accounting.GaussianDpEvent(2.0)
        ),
        Relation.REPLACE_ONE,
    ),
    "Poisson, replaced": (
        dp_accounting.PoissonSampledDpEvent(0.02, dp_accounting.GaussianDpEvent(1.0)),
        Relation.REPLACE_ONE,
    ),
}


@pytest.mark.parametrize("accountant", ["exact", "pld", "rdp"])
@pytest.mark.parametrize(("event", "relation"), EVENTS.values(), ids=EVENTS)
def test_the_curve_of_an_event_agrees_with_its_compositions(
    event, relation, accountant
):
    steps, options = [0, 1, 30], {"accountant": accountant, "relation": relation}
    curve = event_curve(event, 1e-5, steps=steps, **options)
    composed = [dp_accounting.SelfComposedDpEvent(event, n) for n in steps]
    singles = [event_epsilon(each, 1e-5, **options) for each in composed]
    np.testing.assert_allclose(curve, singles, rtol=1e-3)


def test_the_curve_of_nothing_is_zero():
    nothing = event_curve(dp_accounting.NoOpDpEvent(), 1e-5, steps=[0, 3])
    np.testing.assert_array_equal(nothing, [0, 0])


@pytest.mark.parametrize(("noise_multiplier", "rate"), [(0.01, 0.01), (1e-3, 1 / 3)])
def test_noise_that_is_next_to_nothing_has_a_curve(noise_multiplier, rate):
    step = {"noise_multiplier": noise_multiplier, "sampling_prob": rate, "delta": 1e-5}
    curve = epsilon_curve(steps=[1, 2, 3], **step)
    singles = [exact_epsilon(num_steps=n, **step) for n in (1, 2, 3)]
    assert np.all(np.diff(curve) > 0)
    assert np.all(curve >= np.array(singles) * (1 - 1e-6))
    np.testing.assert_allclose(curve, singles, rtol=0.1)
