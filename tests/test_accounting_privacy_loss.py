"""The privacy loss of one sampled Gaussian release."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from dpjax.accounting.laws.privacy_loss import SampledGaussian, grid_laws

TAIL = 1e-14
PAIRS = [
    SampledGaussian(noise, rate, replace_one)
    for noise in (0.3, 1.0, 20.0)
    for rate in (1e-6, 0.02, 0.7, 1.0)
    for replace_one in (False, True)
]


def densities(pair, x):
    s, q = pair.noise_multiplier, pair.sampling_prob
    zero, plus, minus = (stats.norm.pdf(x, mean, s) for mean in (0, 1, -1))
    other = (1 - q) * zero + q * minus if pair.replace_one else zero
    return (1 - q) * zero + q * plus, other


def exact_delta(pair, epsilon, sign):
    """Integrate max(0, P - e^epsilon Q), or that of (Q, P), by brute force."""
    s = pair.noise_multiplier
    x = np.linspace(-1 - 9 * s, 1 + 9 * s, 100_001)
    upper, lower = densities(pair, x)[::sign]
    return integrate.trapezoid(np.maximum(0, upper - math.exp(epsilon) * lower), x)


def law_delta(law, interval, epsilon):
    losses = interval * (law.lowest + np.arange(law.masses.size))
    gains = np.where(losses > epsilon, -np.expm1(np.minimum(0, epsilon - losses)), 0)
    return law.infinity + gains @ law.masses


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_loss_is_the_logarithm_of_the_densities_ratio(pair):
    x = np.linspace(-3, 4, 50)
    upper, lower = densities(pair, x * pair.noise_multiplier)
    loss = pair.loss(x * pair.noise_multiplier)
    np.testing.assert_allclose(loss, np.log(upper / lower), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_output_takes_the_loss_back(pair):
    x = np.linspace(0.5, 6, 50) * pair.noise_multiplier
    np.testing.assert_allclose(pair.output(pair.loss(x)), x, rtol=1e-6, atol=1e-9)


def test_no_output_loses_less_than_not_being_sampled():
    pair = SampledGaussian(1.0, 0.1)
    assert pair.output(np.array([math.log(0.9) - 1e-9]))[0] == -math.inf


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_grid_laws_are_two_probability_laws_and_their_mirror(pair):
    interval = float(np.ptp(pair.nodes(TAIL)[0].losses)) / 500
    removed, added = grid_laws(pair, interval, TAIL)
    for law in (removed, added):
        assert (law.masses >= 0).all()
        assert 0 <= law.infinity <= 2 * TAIL
        assert law.masses.sum() + law.infinity == pytest.approx(1, abs=1e-12)
    losses = interval * (removed.lowest + np.arange(removed.masses.size))
    mirror = (removed.masses * np.exp(-losses))[::-1]
    np.testing.assert_allclose(added.masses, mirror, atol=1e-12)


@pytest.mark.parametrize("sign", [1, -1], ids=["removed", "added"])
@pytest.mark.parametrize("pair", PAIRS[2:], ids=str)
def test_grid_has_the_exact_delta_at_grid_points_and_no_less_between(pair, sign):
    width = float(np.ptp(pair.nodes(TAIL)[0].losses))
    interval = width / 300
    law = grid_laws(pair, interval, TAIL)[0 if sign == 1 else 1]
    for place in (0, 3, 40):
        epsilon = place * interval
        exact = exact_delta(pair, epsilon, sign)
        assert law_delta(law, interval, epsilon) == pytest.approx(exact, abs=1e-8)
        between = epsilon + interval / 2
        assert (
            law_delta(law, interval, between) >= exact_delta(pair, between, sign) - 1e-8
        )


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_distance_is_the_delta_at_epsilon_zero(pair):
    assert pair.distance == pytest.approx(exact_delta(pair, 0.0, 1), rel=1e-6)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_nodes_integrate_the_moments_of_both_directions(pair):
    removed, added = pair.nodes(1e-15)
    assert np.exp(removed.log_weights).sum() == pytest.approx(1, abs=1e-12)
    # E_P e^(-L) = 1 = E_Q e^0: the added weights are those of Q.
    assert np.exp(added.log_weights).sum() == pytest.approx(1, abs=1e-6)
