"""The closed form of one sampled Gaussian release."""

import math

import mpmath
import pytest

from dpjax.accounting.contours import one_step
from dpjax.accounting.laws.privacy_loss import SampledGaussian


def log_delta_by_definition(pair, epsilon, *, added):
    """P(L > epsilon) - e^epsilon Q(L > epsilon), by quadrature with 60 digits."""
    with mpmath.workdps(60):
        s, q = mpmath.mpf(pair.noise_multiplier), mpmath.mpf(pair.sampling_prob)

        def normal(x, shift):
            return mpmath.npdf(x, shift, s)

        def upper(x):
            return (1 - q) * normal(x, 0) + q * normal(x, 1)

        def lower(x):
            shift = -1 if pair.replace_one else 0
            return (1 - q) * normal(x, 0) + q * normal(x, shift)

        first, second = (lower, upper) if added else (upper, lower)
        weight = mpmath.exp(epsilon)
        sign = -1 if added else 1
        edge = mpmath.findroot(
            lambda x: mpmath.log(first(x) / second(x)) - epsilon,
            float(pair.output(sign * epsilon)),
        )
        ends = [edge + sign * s * k for k in (0, 0.5, 1, 2, 4, 8, 16, 32)]
        value = mpmath.quad(lambda x: first(x) - weight * second(x), ends) * sign
        return float(mpmath.log(value))


@pytest.mark.parametrize(
    ("pair", "epsilon", "added"),
    [
        (SampledGaussian(1.0, 0.01), 0.2, False),
        (SampledGaussian(1.0, 0.01), 0.008, True),
        (SampledGaussian(0.3, 0.5), 22.0, False),
        (SampledGaussian(0.3, 0.5), 0.69, True),
        (SampledGaussian(100.0, 0.01), 2e-4, False),
        (SampledGaussian(100.0, 0.01), 2e-4, True),
        (SampledGaussian(1e4, 1e-6), 3e-10, False),
        (SampledGaussian(2.0, 1e-8), 1e-7, False),
        (SampledGaussian(1.0, 0.1, True), 0.5, False),
        (SampledGaussian(30.0, 0.001, True), 1e-4, False),
    ],
)
def test_log_delta_agrees_with_many_digits(pair, epsilon, added):
    expected = log_delta_by_definition(pair, epsilon, added=added)
    actual = one_step.log_delta(pair, epsilon, added=added)
    assert actual == pytest.approx(expected, abs=one_step.ROUNDING)


@pytest.mark.parametrize("replace_one", [False, True])
def test_delta_at_epsilon_0_is_the_distance(replace_one):
    pair = SampledGaussian(0.8, 0.1, replace_one)
    for added in (False, True):
        delta = math.exp(one_step.log_delta(pair, 0.0, added=added))
        assert delta == pytest.approx(pair.distance, rel=1e-12)


def test_adding_costs_nothing_beyond_its_largest_loss():
    pair = SampledGaussian(1.0, 0.25)
    largest = -math.log1p(-0.25)
    assert one_step.log_delta(pair, largest + 1e-12, added=True) == -math.inf
    assert one_step.log_delta(pair, 0.9 * largest, added=True) > -math.inf


@pytest.mark.parametrize("delta", [1e-300, 1e-15, 1e-5, 1e-3])
def test_epsilon_has_the_delta_asked_for_in_the_worse_direction(delta):
    pair = SampledGaussian(0.7, 0.02)
    epsilon, error = one_step.epsilon(pair, delta)
    logs = [one_step.log_delta(pair, epsilon, added=added) for added in (False, True)]
    assert max(logs) == pytest.approx(math.log(delta), abs=1e-11)
    assert 0 < error < 1e-10 * epsilon


def test_a_delta_above_the_distance_costs_nothing():
    pair = SampledGaussian(0.7, 0.02)
    assert one_step.epsilon(pair, 1.01 * pair.distance)[0] == 0
