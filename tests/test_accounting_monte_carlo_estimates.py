"""Delta at an epsilon, and epsilon at a delta, by Monte Carlo."""

import math

import dp_accounting
import numpy as np
import pytest
from scipy import stats

from dpjax._events import RandomAllocationDpEvent
from dpjax.accounting import AccountingError, event_delta, event_epsilon
from dpjax.accounting import monte_carlo as mc

GAUSSIAN = dp_accounting.GaussianDpEvent
EPOCH = mc.Allocated(1.0, 8)
EVENT = RandomAllocationDpEvent(8, 1, GAUSSIAN(1.0))
SETTINGS = {"samples": 30_000, "confidence": 0.99, "seed": 5}


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("noise", [0.7, 1.0, 2.0])
def test_one_step_costs_what_the_closed_form_says_and_no_other_noise(noise, epsilon):
    found = mc.delta(mc.Allocated(noise, 1), epsilon, **SETTINGS)
    truth = event_delta(GAUSSIAN(noise), epsilon)
    assert found.estimate == pytest.approx(truth, rel=0.15)
    assert truth < found.upper
    assert found.upper < event_delta(GAUSSIAN(noise / 1.5), epsilon)
    assert found.estimate > event_delta(GAUSSIAN(noise * 1.5), epsilon)


@pytest.mark.parametrize("confidence", [0.7, 0.95])
def test_bounds_hold_as_often_as_their_confidence_says(confidence):
    truth, rounds = event_delta(EVENT, 0.5), 200
    found = [
        mc.delta(EPOCH, 0.5, samples=1000, confidence=confidence, seed=seed)
        for seed in range(rounds)
    ]
    failed = sum(one.upper < truth for one in found)
    assert stats.binom.sf(failed - 1, rounds, 1 - confidence) > 1e-6
    # And they are no idle ones: the delta of less noise by a third is above most.
    less = event_delta(RandomAllocationDpEvent(8, 1, GAUSSIAN(1 / 1.5)), 0.5)
    assert np.mean([one.upper < less for one in found]) > 0.9


def test_more_samples_bring_the_bound_to_the_estimate():
    gaps = []
    for samples in (1000, 30_000):
        found = mc.delta(EPOCH, 0.5, **(SETTINGS | {"samples": samples}))
        gaps.append(found.upper - found.estimate)
    assert gaps[1] < gaps[0] / 3


@pytest.mark.parametrize("seed", range(4))
def test_an_epsilon_is_enough_and_not_by_much_too_large(seed):
    truth = event_epsilon(EVENT, 1e-2)
    found = mc.epsilon(EPOCH, 1e-2, **(SETTINGS | {"seed": seed}))
    assert truth < found.upper < 1.4 * truth
    assert found.estimate == pytest.approx(truth, rel=0.1)
    assert found.estimate < found.upper
    less = event_epsilon(RandomAllocationDpEvent(8, 1, GAUSSIAN(1 / 1.5)), 1e-2)
    assert found.upper < less


@pytest.mark.slow
def test_epsilons_fail_no_more_often_than_stated():
    truth, rounds = event_epsilon(EVENT, 5e-2), 200
    failed = sum(
        mc.epsilon(EPOCH, 5e-2, samples=2000, confidence=0.7, seed=seed).upper < truth
        for seed in range(rounds)
    )
    assert stats.binom.sf(failed - 1, rounds, 0.3) > 1e-6


def test_a_distance_below_delta_costs_nothing():
    found = mc.epsilon(mc.Allocated(30.0, 50), 0.1, **SETTINGS)
    assert found.estimate == found.upper == 0


def test_a_seed_repeats_itself_and_another_does_not():
    one, again = (mc.delta(EPOCH, 0.5, **SETTINGS) for _ in range(2))
    other = mc.delta(EPOCH, 0.5, **(SETTINGS | {"seed": 6}))
    assert one == again != other


def test_results_say_what_they_are():
    found = mc.delta(EPOCH, 0.5, **SETTINGS)
    assert (found.epsilon, found.confidence, found.samples) == (0.5, 0.99, 30_000)
    assert found.method == "monte_carlo"
    words = f"delta <= {found.upper:.4g} at epsilon = 0.5, with confidence 0.99 over"
    assert str(found).startswith(words)
    spent = mc.epsilon(EPOCH, 1e-2, **SETTINGS)
    assert (spent.delta, spent.confidence, spent.method) == (1e-2, 0.99, "monte_carlo")
    words = f"epsilon <= {spent.upper:.4g} at delta = 0.01, with confidence 0.99 over"
    assert str(spent).startswith(words)
    assert not isinstance(spent, float)
    assert not isinstance(found, float)


def test_too_few_samples_for_a_delta_are_refused_and_enough_are_named():
    with pytest.raises(AccountingError, match=r"at least \d+ samples") as caught:
        mc.epsilon(EPOCH, 1e-4, **SETTINGS)
    needed = int(str(caught.value).split()[3])
    assert 30_000 < needed < 2_000_000
    assert math.isclose(needed, 2 * math.log(4 * 3 * 20 / 0.01) / 1e-4, rel_tol=0.1)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"samples": 1}, ValueError),
        ({"samples": 10.0}, TypeError),
        ({"confidence": 1.0}, ValueError),
        ({"confidence": 0.0}, ValueError),
        ({"seed": -1}, ValueError),
        ({"seed": None}, TypeError),
        ({"epsilon": -0.1}, ValueError),
        ({"epsilon": math.inf}, ValueError),
    ],
    ids=repr,
)
def test_settings_out_of_range_are_named(change, error):
    settings = {"epsilon": 0.5} | SETTINGS | change
    with pytest.raises(error, match=f"got {next(iter(change))}="):
        mc.delta(EPOCH, settings.pop("epsilon"), **settings)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0])
def test_a_delta_is_between_zero_and_one(delta):
    with pytest.raises(ValueError, match="got delta="):
        mc.epsilon(EPOCH, delta, **SETTINGS)
