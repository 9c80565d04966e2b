"""The Renyi divergences of releases that say which of several pairs they are of."""

import mpmath
import numpy as np
import pytest

from dpjax.accounting.laws.privacy_loss import SampledGaussian
from dpjax.accounting.laws.revealed import Component, RevealedMixture
from dpjax.accounting.renyi import revealed, sampled_gaussian

ORDERS = np.array([1.01, 1.5, 2.0, 8.0])


def swapped(noise, rate):
    return RevealedMixture((Component(1.0, SampledGaussian(noise, rate), True),))


def exact_swapped(noise, rate, order):
    """Return the divergence of the larger pair, from its definition, by mpmath."""
    with mpmath.workdps(30):
        s, q, c = mpmath.mpf(noise), mpmath.mpf(rate), mpmath.mpf(order) - 1

        def integrand(x):
            loss = mpmath.log(1 - q + q * mpmath.exp((x - 0.5) / s**2))
            gain = mpmath.expm1((1 + c) * loss) * -mpmath.expm1(-c * loss)
            return gain * mpmath.npdf(x, 0, s)

        ends = [0.5, 1, 2, 4, 8, order, order + 4 * s, order + 20 * s]
        middle = mpmath.quad(integrand, sorted([*ends, 0.5 + 20 * noise]))
        return float(mpmath.log1p(middle) / c)


@pytest.mark.parametrize(
    ("noise", "rate"), [(0.5, 0.01), (1.0, 0.01), (0.2, 0.3), (5.0, 1e-4), (30.0, 0.5)]
)
def test_swapped_roles_have_the_moment_of_the_larger_pair(noise, rate):
    expected = [exact_swapped(noise, rate, float(order)) for order in ORDERS]
    found = revealed.divergences(swapped(noise, rate), ORDERS)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.all(found >= np.array(expected) * (1 - 1e-12))


@pytest.mark.parametrize("noise", [0.05, 0.11])
def test_with_little_noise_the_moment_is_bounded_and_hardly_above(noise):
    expected = [exact_swapped(noise, 0.1, order) for order in (1.5, 2.0)]
    found = revealed.divergences(swapped(noise, 0.1), np.array([1.5, 2.0]))
    assert np.all(found >= np.array(expected) * (1 - 1e-12))
    np.testing.assert_allclose(found, expected, rtol=0.01)


def test_one_component_that_is_not_swapped_has_the_divergences_of_its_pair():
    pair = SampledGaussian(1.0, 0.01)
    found = revealed.divergences(
        RevealedMixture((Component(1.0, pair, False),)), ORDERS
    )
    np.testing.assert_allclose(
        found, sampled_gaussian.divergences([pair], ORDERS)[0], rtol=1e-11
    )


def test_moments_of_a_mixture_are_the_means_of_those_of_its_components():
    pairs = [SampledGaussian(1.0, 0.1), SampledGaussian(0.5, 0.2)]
    weights = [0.9, 0.1]
    found = revealed.divergences(
        RevealedMixture(
            tuple(
                Component(weight, pair, False)
                for weight, pair in zip(weights, pairs, strict=True)
            )
        ),
        ORDERS,
    )
    powers = ORDERS - 1
    moments = np.array(weights) @ np.exp(
        powers * sampled_gaussian.divergences(pairs, ORDERS)
    )
    np.testing.assert_allclose(found, np.log(moments) / powers, rtol=1e-9)


def test_divergences_grow_with_the_order_and_stay_finite():
    orders = 1 + np.geomspace(1e-3, 1e5, 30)
    for noise, rate in [(0.5, 0.01), (0.05, 0.5), (100.0, 1e-6)]:
        found = revealed.divergences(swapped(noise, rate), orders)
        assert np.all(np.isfinite(found))
        assert np.all(np.diff(found) >= -1e-9 * found[1:])
