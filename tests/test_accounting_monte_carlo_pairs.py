"""Pairs of output laws that can be sampled."""

import math

import dp_accounting
import numpy as np
import pytest

from dpjax._events import RandomAllocationDpEvent
from dpjax.accounting import event_delta
from dpjax.accounting.monte_carlo import (
    Allocated,
    Repeated,
    Separated,
    ShiftedGaussians,
)

GAUSSIAN = dp_accounting.GaussianDpEvent
COUNT = 40_000

PAIRS = [
    Allocated(1.0, 1),
    Allocated(1.0, 20),
    Allocated(1.0, 12, 3),
    Allocated(2.0, 6, 6),
    Repeated(Allocated(1.5, 10), 3),
    ShiftedGaussians(1.0, np.eye(7)),
    ShiftedGaussians(2.0, np.tril(np.ones((5, 5)))),
    Separated(1.5, 0.1, 1, 30),
    Separated(1.5, 0.2, 4, 30),
    Separated(1.5, 0.9, 3, 9),
]


def source(seed=1):
    return np.random.default_rng(seed)


def within(values, mean, errors=5):
    """Tell whether a mean is where it should be, in standard errors."""
    return abs(values.mean() - mean) < errors * values.std() / math.sqrt(values.size)


@pytest.mark.parametrize("pair", PAIRS, ids=repr)
def test_a_likelihood_ratio_has_mean_one_both_ways(pair):
    without = pair.log_ratios(source(), COUNT, with_example=False)
    assert without.shape == (COUNT,)
    assert within(np.exp(without), 1.0)
    tilted = pair.log_ratios(source(), COUNT, with_example=True)
    assert within(np.exp(-tilted), 1.0)
    # A ratio that is a half too large in its logarithm would show.
    assert not within(np.exp(1.5 * without), 1.0)


@pytest.mark.parametrize("pair", PAIRS, ids=repr)
def test_outputs_with_the_example_are_those_without_reweighted(pair):
    # E_P f = E_Q f dP/dQ, of a bounded function of the ratio.
    tilted = pair.log_ratios(source(2), COUNT, with_example=True)
    without = pair.log_ratios(source(3), COUNT, with_example=False)
    direct = np.tanh(tilted)
    weighted = np.tanh(without) * np.exp(without)
    error = math.hypot(direct.std(), weighted.std()) / math.sqrt(COUNT)
    assert abs(direct.mean() - weighted.mean()) < 5 * error
    assert abs(direct.mean() - np.tanh(without).mean()) > 5 * error


def deltas(pair, epsilon, count=COUNT):
    """Return unbiased estimates of delta and their errors, removed and added."""
    found = []
    for sign, with_example in ((1, True), (-1, False)):
        losses = sign * pair.log_ratios(source(5), count, with_example)
        paid = -np.expm1(np.minimum(epsilon - losses, 0))
        found.append((paid.mean(), paid.std() / math.sqrt(count)))
    return found


@pytest.mark.parametrize(
    ("pair", "event"),
    [
        (Allocated(1.0, 1), GAUSSIAN(1.0)),
        (Allocated(2.0, 4, 4), GAUSSIAN(1.0)),
        (Allocated(1.0, 15), RandomAllocationDpEvent(15, 1, GAUSSIAN(1.0))),
        (
            Repeated(Allocated(1.5, 10), 4),
            dp_accounting.SelfComposedDpEvent(
                RandomAllocationDpEvent(10, 1, GAUSSIAN(1.5)), 4
            ),
        ),
        (
            ShiftedGaussians(1.0, np.eye(15)),
            RandomAllocationDpEvent(15, 1, GAUSSIAN(1.0)),
        ),
        (
            Separated(1.0, 0.1, 1, 20),
            dp_accounting.SelfComposedDpEvent(
                dp_accounting.PoissonSampledDpEvent(0.1, GAUSSIAN(1.0)), 20
            ),
        ),
    ],
    ids=repr,
)
def test_the_worse_direction_costs_what_the_accountant_says(pair, event):
    truth = event_delta(event, 0.5)
    value, error = max(deltas(pair, 0.5))
    assert abs(value - truth) < 5 * error
    assert abs(value - 1.5 * truth) > 5 * error


def test_a_rest_that_takes_all_time_is_balls_in_bins():
    # p close to 1: one step of every 6, any as likely, and the same ones ever after.
    nearly = deltas(Separated(2.0, 1 - 1e-9, 6, 24), 0.5)
    kept = event_delta(RandomAllocationDpEvent(6, 1, GAUSSIAN(1.0)), 0.5)
    value, error = max(nearly)
    assert abs(value - kept) < 5 * error


def test_a_rest_costs_less_than_the_bound_of_poisson_samples():
    p, b, steps = 0.2, 4, 40
    step = dp_accounting.PoissonSampledDpEvent(p, GAUSSIAN(1.0))
    bound = event_delta(dp_accounting.SelfComposedDpEvent(step, steps), 1.0)
    value, error = max(deltas(Separated(1.0, p, b, steps), 1.0))
    assert value + 5 * error < bound


def test_several_participations_cost_less_than_the_bound_by_groups():
    bound = event_delta(RandomAllocationDpEvent(20, 4, GAUSSIAN(1.5)), 1.0)
    value, error = max(deltas(Allocated(1.5, 20, 4), 1.0, count=4 * COUNT))
    assert value + 5 * error < bound < 1.5 * value


@pytest.mark.slow
def test_jax_privacy_draws_the_same_losses():
    selection = pytest.importorskip("jax_privacy.batch_selection")
    theirs = pytest.importorskip(
        "jax_privacy.experimental.monte_carlo.sample_generation"
    )
    strategy = selection.BMinSepSampling(0.2, 30, 4)
    pair, count, column = Separated(1.5, 0.2, 4, 30), 20_000, np.eye(1, 4)[0]
    for positive in (True, False):
        losses, _ = theirs.get_privacy_loss_sample(
            strategy, 1.5, column, seed=1, positive_sample=positive, num_samples=count
        )
        ours = pair.log_ratios(source(4), count, with_example=positive)
        ours = ours if positive else -ours
        error = math.hypot(np.std(losses), ours.std()) / math.sqrt(count)
        assert abs(np.mean(losses) - ours.mean()) < 5 * error
        assert np.std(losses) == pytest.approx(ours.std(), rel=0.05)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Allocated(0.0, 5), "noise_multiplier"),
        (lambda: Allocated(1e-3, 5), "noise_multiplier"),
        (lambda: Allocated(1.0, 0), "num_steps"),
        (lambda: Allocated(1.0, 5, 6), "num_participations"),
        (lambda: Allocated(1.0, 5, 0), "num_participations"),
        (lambda: Repeated(Allocated(1.0, 5), 0), "count"),
        (lambda: ShiftedGaussians(1.0, np.zeros(3)), "means"),
        (lambda: ShiftedGaussians(1.0, [[math.nan]]), "means"),
        (lambda: Separated(1.0, 1.0, 2, 5), "sampling_prob"),
        (lambda: Separated(1.0, 0.5, 0, 5), "min_separation"),
        (lambda: Separated(1.0, 0.5, 2, 0), "num_steps"),
    ],
)
def test_settings_out_of_range_are_named(make, name):
    with pytest.raises(ValueError, match=f"got {name}="):
        make()
