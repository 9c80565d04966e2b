"""Moments of a privacy loss at complex arguments."""

import mpmath
import numpy as np
import pytest

from dpjax.accounting.contours import cumulant
from dpjax.accounting.contours.quadrature import Region
from dpjax.accounting.laws.privacy_loss import SampledGaussian

REGION = Region(-200.0, False)
ADDED = Region(-200.0, True)


def log_moment_by_definition(pair, w):
    """Log E_Q (P/Q)^w, by quadrature with 40 digits."""
    with mpmath.workdps(40):
        s, q = mpmath.mpf(pair.noise_multiplier), mpmath.mpf(pair.sampling_prob)

        def mixture(x):
            return 1 - q + q * mpmath.exp((x - mpmath.mpf(1) / 2) / s**2)

        def integrand(x):
            ratio, density = mixture(x), mpmath.npdf(x, 0, s)
            if pair.replace_one:
                ratio, density = ratio / mixture(-x), density * mixture(-x)
            return density * (ratio ** mpmath.mpc(w) - 1)

        ends = [s * k for k in range(-24, 25, 2)]
        ends += [ends[-1] + k for k in (1, 2, 4, 8)]
        return complex(mpmath.log1p(mpmath.quad(integrand, ends)))


@pytest.mark.parametrize(
    ("pair", "real", "height"),
    [
        (SampledGaussian(1.0, 0.01), 5.0, 0.0),
        (SampledGaussian(1.0, 0.01), 5.0, 3.0),
        (SampledGaussian(1.0, 1e-6), 3.0, 20.0),
        (SampledGaussian(0.5, 0.2), 1.5, 4.0),
        (SampledGaussian(4.0, 0.02), 30.0, 17.0),
        (SampledGaussian(4.0, 0.02), -30.0, 17.0),
        (SampledGaussian(0.5, 0.2), -2.0, 5.0),
        (SampledGaussian(30.0, 0.001), 900.0, 2000.0),
        (SampledGaussian(1.0, 0.05, True), 2.5, 3.0),
    ],
)
def test_moments_agree_with_many_digits(pair, real, height):
    region = ADDED if real < 0 else REGION
    heights = np.array([height]) if height else np.zeros(1)
    moments = cumulant.moments(pair, real, heights, region)
    expected = log_moment_by_definition(pair, complex(real, height))
    assert abs(moments.log_rest[0] - expected) <= 3e-14 * abs(expected) + 3e-18


def test_many_arguments_at_once_agree_with_single_ones():
    pair, heights = SampledGaussian(0.7, 0.01), 0.4 * np.arange(100)
    together = cumulant.moments(pair, 4.0, heights, REGION).log_rest
    for index in (0, 1, 63, 64, 99):
        alone = cumulant.moments(pair, 4.0, heights[index : index + 1], REGION)
        assert together[index] == pytest.approx(alone.log_rest[0], rel=1e-12)


def test_a_plain_release_has_a_quadratic_cumulant():
    moments = cumulant.moments(SampledGaussian(2.0, 1.0), 3.0, np.zeros(1), REGION)
    assert moments.log_rest[0] == pytest.approx(3 * 2 / (2 * 4), rel=1e-15)


def test_rest_and_gain_make_up_the_whole():
    pair, heights = SampledGaussian(0.7, 0.01), np.arange(5.0)
    whole = cumulant.moments(pair, 3.0, heights, REGION).log_rest
    parts = cumulant.moments(pair, 3.0, heights, REGION._replace(floor=0.3))
    np.testing.assert_allclose(parts.log_rest + parts.gain, whole, rtol=1e-11)
    assert parts.gain.real[0] > 0
    assert parts.log_rest.real[0] < whole.real[0]


def test_a_moment_beyond_all_floats_has_its_logarithm():
    # Sampled outputs dominate: log M(w) is near w log q + w (w - 1) / (2 s^2).
    pair, w = SampledGaussian(0.2, 0.5), 9.0
    region = Region(-5000.0, False)
    value = cumulant.moments(pair, w, np.zeros(1), region).log_rest[0].real
    assert value == pytest.approx(w * np.log(0.5) + w * (w - 1) / 0.08, rel=1e-6)
    assert value > 709
