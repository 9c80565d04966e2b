"""The Renyi divergences of Poisson-sampled Gaussian releases."""

import itertools
import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpjax.accounting.laws.privacy_loss import SampledGaussian
from dpjax.accounting.renyi import sampled_gaussian

_DIGITS = 60
_PANEL = 24  # Points of a Gauss-Legendre rule on a panel.


def divergence(noise, rate, order, *, added=False, replace_one=False):
    pair = SampledGaussian(noise, rate, replace_one)
    return float(
        sampled_gaussian.divergences([pair], np.array([order]), added=added)[0, 0]
    )


def exact_at_an_integer(noise, rate, order):
    """Expand E_Q[(1 - q + q e^Z)^a] by the binomial theorem."""
    with mp.workdps(_DIGITS):
        s, q = mp.mpf(noise), mp.mpf(rate)
        total = mp.fsum(
            mp.binomial(order, k)
            * (1 - q) ** (order - k)
            * q**k
            * mp.exp(mp.mpf(k * (k - 1)) / (2 * s * s))
            for k in range(order + 1)
        )
        return mp.log(total) / (order - 1)


def exact_by_panels(noise, rate, order, what):
    """Integrate P^a Q^(1-a) by Gauss-Legendre on panels, far beyond what matters."""
    with mp.workdps(_DIGITS):
        s, q, a = mp.mpf(noise), mp.mpf(rate), mp.mpf(order)

        def log_mixture(exponent):
            return mp.log(1 - q + q * mp.exp(exponent))

        def integrand(x):
            plus = log_mixture((2 * x - 1) / (2 * s * s))
            minus = log_mixture((-2 * x - 1) / (2 * s * s))
            exponent = {
                "remove": a * plus,
                "add": (1 - a) * plus,
                "replace": a * plus + (1 - a) * minus,
            }[what]
            return mp.npdf(x, 0, s) * mp.exp(exponent)

        low = -1 - 14 * s - (a if what == "add" else 0)
        high = (2 * a if what == "replace" else a) + 14 * s
        count = int((high - low) / min(2 * s, 2 * s * s)) + 1
        points, weights = _gauss_legendre()
        width = (high - low) / count
        total = mp.fsum(
            w * width * integrand(low + (i + t) * width)
            for i in range(count)
            for t, w in zip(points, weights, strict=True)
        )
        return mp.log(total) / (a - 1)


def _gauss_legendre():
    points, weights = [], []
    for guess in np.polynomial.legendre.leggauss(_PANEL)[0]:
        t = mp.findroot(lambda z: mp.legendre(_PANEL, z), mp.mpf(float(guess)))
        slope = _PANEL * (t * mp.legendre(_PANEL, t) - mp.legendre(_PANEL - 1, t))
        points.append((t + 1) / 2)
        weights.append((1 - t * t) / slope**2)
    return points, weights


def rounding_of_the_arguments(noise, rate, order, log_moment):
    """How much of the result one rounding of each argument moves, relatively."""
    size = order * abs(math.log(rate)) + order**2 / noise**2
    return 2**-51 * size / log_moment


@pytest.mark.parametrize(
    ("noise", "rate"),
    list(itertools.product([0.3, 0.5, 1.0, 3.0, 100.0], [1e-9, 1e-5, 0.01, 0.3, 0.9])),
)
@pytest.mark.parametrize("order", [2, 3, 7, 30, 200])
def test_integer_orders_have_their_binomial_sum(noise, rate, order):
    exact = exact_at_an_integer(noise, rate, order)
    error = float((mp.mpf(divergence(noise, rate, float(order))) - exact) / exact)
    assert 0 <= error <= 1e-12


REAL_ORDERS = [
    (0.3, 1e-9, 1.001),
    (0.3, 0.3, 1.03),
    (0.5, 1e-3, 2.5),
    (1.0, 0.9, 1.001),
    (1.0, 1e-6, 27.4),
    (2.0, 1 - 1e-9, 5.5),
    (3.0, 0.1, 60.5),
    (30.0, 1e-4, 1200.5),
    (100.0, 0.01, 1.5),
    (100.0, 0.01, 26262.4),
    (100.0, 0.3, 10000.5),
]


@pytest.mark.parametrize("what", ["remove", "add", "replace"])
@pytest.mark.parametrize(("noise", "rate", "order"), REAL_ORDERS)
def test_real_orders_have_their_integral(noise, rate, order, what):
    exact = exact_by_panels(noise, rate, order, what)
    value = divergence(
        noise, rate, order, added=what == "add", replace_one=what == "replace"
    )
    error = float((mp.mpf(value) - exact) / exact)
    log_moment = float(exact) * (order - 1)
    assert error >= 0
    assert error <= 1e-12 + rounding_of_the_arguments(noise, rate, order, log_moment)


@pytest.mark.parametrize("noise", [0.3, 3.0, 100.0])
@pytest.mark.parametrize("rate", [1e-9, 0.01, 0.9])
def test_at_a_huge_order_only_the_sampled_component_is_left(noise, rate):
    # q^a e^(a (a-1) / (2 s^2)) <= moment <= (1 - q + q e^((a-1) / (2 s^2)))^a, the norm
    # of a sum by the sum of norms.
    order = 1e6
    power = order - 1
    low = order * (math.log(rate) / power + 0.5 / noise**2)
    high = (
        order
        / power
        * np.logaddexp(math.log1p(-rate), math.log(rate) + 0.5 * power / noise**2)
    )
    value = divergence(noise, rate, order)
    assert max(low, 0) * (1 - 1e-12) <= value <= high * (1 + 1e-12)


def test_between_the_two_components_at_their_transition_nothing_is_lost():
    # The loosest conditioning: both terms of the moment are about 1 there.
    noise, rate = 1.9218470361992255, 1.9512552384157897e-07
    order = 114
    exact = exact_at_an_integer(noise, rate, order)
    error = float((mp.mpf(divergence(noise, rate, float(order))) - exact) / exact)
    assert 0 <= error <= 1e-10


@pytest.mark.parametrize("replace_one", [False, True])
def test_without_sampling_the_divergence_is_that_of_two_gaussians(replace_one):
    shift = 2 if replace_one else 1
    value = divergence(3.0, 1.0, 7.5, replace_one=replace_one)
    assert value == 7.5 * shift**2 / (2 * 3.0**2)


@pytest.mark.parametrize("replace_one", [False, True])
def test_sampling_nearly_everything_costs_nearly_what_no_sampling_does(replace_one):
    almost, all_of_it = (
        divergence(2.0, rate, 3.3, replace_one=replace_one) for rate in (1 - 1e-14, 1.0)
    )
    assert almost == pytest.approx(all_of_it, rel=1e-12)


settings = {
    "noise": st.floats(0.02, 1e4),
    "rate": st.floats(1e-12, 1 - 1e-12),
    "power": st.floats(-3, 6).map(lambda exponent: 10**exponent),
}


@given(**settings)
def test_adding_never_costs_more_than_removing(noise, rate, power):
    removed = divergence(noise, rate, 1 + power)
    assert divergence(noise, rate, 1 + power, added=True) <= removed * (1 + 1e-11)


@given(**settings)
def test_divergences_lie_between_none_and_that_without_sampling(noise, rate, power):
    for replace_one, scale in [(False, 0.5), (True, 2.0)]:
        value = divergence(noise, rate, 1 + power, replace_one=replace_one)
        assert 0 < value <= scale * (1 + power) / noise**2 * (1 + 1e-11)


@given(**settings, growth=st.floats(1, 10))
def test_divergences_grow_with_the_order_and_fall_with_the_noise(
    noise, rate, power, growth
):
    value = divergence(noise, rate, 1 + power)
    assert value <= divergence(noise, rate, 1 + growth * power) * (1 + 1e-11)
    assert value >= divergence(growth * noise, rate, 1 + power) * (1 - 1e-11)


@given(**settings)
def test_replacing_costs_at_least_what_removing_does(noise, rate, power):
    # Replacing by an example whose gradient is zero removes it; zero is in the ball.
    replaced = divergence(noise, rate, 1 + power, replace_one=True)
    assert replaced >= divergence(noise, rate, 1 + power) * (1 - 1e-11)


@pytest.mark.parametrize("replace_one", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("noise", [1e-100, 1e-9, 1e-6, 1e-3, 1e6, 1e100])
@pytest.mark.parametrize("rate", [1e-12, 0.5, 1 - 1e-12])
def test_hostile_settings_have_a_finite_divergence(noise, rate, added, replace_one):
    pair = SampledGaussian(noise, rate, replace_one)
    orders = 1 + np.geomspace(1e-3, 1e6, 10)
    with np.errstate(all="raise", under="ignore"):
        values = sampled_gaussian.divergences([pair], orders, added=added)
    assert np.all(np.isfinite(values))
    assert np.all(values > 0)


def test_many_pairs_at_once_are_the_pairs_one_by_one(monkeypatch):
    pairs = [
        SampledGaussian(1.0, 0.1),
        SampledGaussian(2.0, 1.0),
        SampledGaussian(0.5, 1e-5, True),
        SampledGaussian(40.0, 0.9),
    ]
    orders = np.array([1.001, 2.0, 33.3])
    alone = np.concatenate(
        [sampled_gaussian.divergences([pair], orders) for pair in pairs]
    )
    monkeypatch.setattr(sampled_gaussian, "_MOST_NODES", 100)
    assert np.array_equal(sampled_gaussian.divergences(pairs, orders), alone)


@given(st.floats(-700, 700))
def test_log_phi_has_all_digits(y):
    with mp.workdps(700):
        exact = mp.log(mp.exp(y) - 1 - mp.mpf(y)) if y else mp.mpf("-inf")
        assert sampled_gaussian.log_phi(np.array([y]))[0] == pytest.approx(
            float(exact), rel=4e-15
        )
