"""Laws on a grid that are larger than the true ones."""

import mpmath
import numpy as np
import pytest

from dpjax.accounting.certificates.dominating import dominating_laws
from dpjax.accounting.contours import one_step
from dpjax.accounting.laws.privacy_loss import SampledGaussian, grid_laws

PAIRS = [
    SampledGaussian(1.0, 0.01),
    SampledGaussian(0.4, 0.3),
    SampledGaussian(20.0, 1e-3),
    SampledGaussian(1.0, 0.05, True),
    SampledGaussian(2.0, 1.0),
]


def delta(law, interval, epsilon):
    losses = interval * (law.lowest + np.arange(law.masses.size))
    above = losses > epsilon
    payoff = -np.expm1(epsilon - losses[above])
    return mpmath.fsum((law.masses[above] * payoff).tolist()) + law.infinity


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("side", [0, 1])
def test_delta_is_above_the_closed_form_at_grid_points_and_between(pair, side):
    spread = pair.sampling_prob / pair.noise_multiplier
    interval = 0.01 * spread
    law = dominating_laws(pair, interval, 1e-20)[side]
    for epsilon in interval * np.array([0.0, 0.5, 1.0, 17.0, 40.3, 90.0]):
        log_truth = one_step.log_delta(pair, epsilon, added=bool(side))
        if log_truth > -30:
            assert delta(law, interval, epsilon) >= np.exp(log_truth) * (1 - 1e-13)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_what_is_added_back_is_next_to_nothing(pair):
    interval = 0.02 * pair.sampling_prob / pair.noise_multiplier
    exact = grid_laws(pair, interval, 1e-15)
    larger = dominating_laws(pair, interval, 1e-15)
    for before, after in zip(exact, larger, strict=True):
        assert before.lowest == after.lowest
        assert after.infinity >= before.infinity
        assert 0 < after.masses.sum() - before.masses.sum() < 1e-7
