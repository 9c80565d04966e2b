"""The epsilon of many privacy losses added up.

The law of a sum of losses is the convolution of their laws: a product of Fourier
transforms. A transform has absolute errors, and what is asked for is a far tail; so each
law is first tilted by e^(t loss), which moves its middle towards that tail. Errors are
then relative to the tail itself, and a delta of 1e-15 is as good as one of 1e-5.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import fft, optimize, signal

from dpjax.accounting.privacy_loss import LossLaw, Nodes

_SHARES = (0.7, 1.0)
"""Tilts to try, in tilts that would make the tail the middle.

All of it lets a law of rare, large losses spread over a window several times as long;
less of it leaves a law of two heaps where it was.
"""

_LOG_OUTSIDE = 14.0
"""Beyond either end of the window is at most e^-14 of the tail."""

_REACH = 600.0
"""Exponents beyond this neither matter nor fit."""

_ROUNDING = 256 * 2.0**-52
"""Error of the transform a composed loss, generously."""

_MOST_ROUNDING = 1e-3
"""Rounding that asks for more tilt, relatively to delta."""

_PRICE = 2e-6
"""Share of delta that pays for what the window leaves out, and for sums."""


class Window(NamedTuple):
    """Where the total loss is worth computing, in nats, and how it is tilted there.

    Attributes:
      low: least loss of the window.
      high: largest loss of the window.
      bound: Chernoff's bound on epsilon.
      tilt: t, of the factor e^(t loss).
      rounding: error of delta by rounding, relatively.
    """

    low: float
    high: float
    bound: float
    tilt: float
    rounding: float


def find_window(nodes: Sequence[Nodes], counts: Sequence[int], delta: float) -> Window:
    """Return the window that the epsilon at `delta` of a composition asks for.

    Args:
      nodes: quadrature rules of the losses.
      counts: how often each loss is composed, at least once.
      delta: in (0, 1).
    """
    quadrature = _Quadrature(
        np.stack([rule.losses for rule in nodes]),
        np.stack([rule.log_weights for rule in nodes]),
        np.array(counts, dtype=float),
    )
    log_delta = math.log(delta)
    saddle = _saddle(quadrature, log_delta)
    bound = _cumulants(quadrature, saddle)[1]
    for share in _SHARES:
        tilt = share * saddle
        # What the tilted law has above epsilon.
        log_tail = log_delta - _cumulants(quadrature, tilt)[0] + tilt * bound
        log_tail = min(0.0, log_tail)
        rounding = _ROUNDING * sum(counts) * math.exp(min(-log_tail, _REACH))
        if rounding <= _MOST_ROUNDING:
            break
    low, high = _ends(quadrature, tilt, _LOG_OUTSIDE - log_tail)
    return Window(low, high, bound, tilt, rounding)


def epsilon(
    laws: Sequence[LossLaw],
    counts: Sequence[int],
    window: Window,
    *,
    interval: float,
    delta: float,
) -> float:
    """Return the epsilon at `delta` of the composition of `laws`.

    With p the law of the total loss, it is the least epsilon >= 0 with

        p(infinity) + sum over losses l > epsilon of (1 - e^(epsilon - l)) p(l) <= delta

    Args:
      laws: laws of losses on the grid of `interval`.
      counts: how often each is composed, at least once.
      window: from `find_window`, for the same losses, counts and delta.
      interval: distance of grid points, in nats.
      delta: in (0, 1).

    Returns:
      Epsilon in nats, infinite where `delta` is below the mass at infinity.

    Guarantee: not below the exact value of the composition. Rounding, of relative size
    2^-52 a loss, and the window are paid for by asking for a slightly smaller delta.
    """
    infinite = sum(n * law.infinity for law, n in zip(laws, counts, strict=True))
    budget = delta * (1 - _PRICE - window.rounding) - infinite
    if budget <= 0:
        return math.inf
    first = math.floor(window.low / interval) - 1
    size = math.ceil(window.high / interval) + 2 - first
    size = fft.next_fast_len(max(size, *(law.masses.size for law in laws)), real=True)
    tilt = window.tilt
    masses, log_scale = _convolve(laws, counts, tilt * interval, first, size)
    offsets = interval * (first + np.arange(size)) - window.bound
    log_budget = math.log(budget) - log_scale + tilt * window.bound
    relative = _solve(offsets, interval, masses, tilt, log_budget)
    return max(0.0, window.bound + relative)


class _Quadrature(NamedTuple):
    """Quadrature rules of the laws: (laws, nodes), and counts: (laws,)."""

    losses: np.ndarray
    log_weights: np.ndarray
    counts: np.ndarray


def _cumulants(quadrature: _Quadrature, tilt: float) -> tuple[float, float, float]:
    """Return log E e^(tilt loss) of the total, and its first two derivatives."""
    exponents = quadrature.log_weights + tilt * quadrature.losses
    peaks = exponents.max(axis=1)
    weights = np.exp(exponents - peaks[:, None])
    sums = weights.sum(axis=1)
    means = (weights * quadrature.losses).sum(axis=1) / sums
    spreads = (weights * (quadrature.losses - means[:, None]) ** 2).sum(axis=1) / sums
    counts = quadrature.counts
    return counts @ (peaks + np.log(sums)), counts @ means, counts @ spreads


def _saddle(quadrature: _Quadrature, log_delta: float) -> float:
    """Return the tilt t that moves the mean to where Chernoff's bound is delta.

    That is K(t) - t K'(t) = log delta, with K the logarithm of the moment generating
    function; the left side falls from 0 as t grows.
    """

    def gap(log_tilt: float) -> float:
        tilt = math.exp(log_tilt)
        log_moment, mean, _ = _cumulants(quadrature, tilt)
        return log_moment - tilt * mean - log_delta

    # Where the total is Gaussian with variance v, t^2 v / 2 = -log delta.
    _, _, variance = _cumulants(quadrature, 0.0)
    low = high = 0.5 * math.log(-2 * log_delta / variance)
    while gap(low) < 0:
        low -= 0.5
    while gap(high) > 0:
        high += 0.5
        if high > low + 12:  # A bounded loss that has more mass at its end than delta.
            return math.exp(high)
    return math.exp(low if low == high else optimize.brentq(gap, low, high, xtol=1e-6))


def _ends(
    quadrature: _Quadrature, tilt: float, outside: float
) -> tuple[float, float]:
    """Return where the tilted law is but for e^-outside on either side, by Chernoff."""
    log_moment, _, variance = _cumulants(quadrature, tilt)
    # Far tilted, the law may sit on a single node; any step gives a true bound.
    least = 1e-6 * np.ptp(quadrature.losses)
    scale = math.sqrt(2 * outside) / max(math.sqrt(variance), least)
    steps = scale * np.geomspace(1e-3, 1e3, 25)

    def end(step: float) -> float:
        log_ratio = _cumulants(quadrature, tilt + step)[0] - log_moment
        return (log_ratio + outside) / step

    return max(end(-step) for step in steps), min(end(step) for step in steps)


def _convolve(
    laws: Sequence[LossLaw], counts: Sequence[int], tilt: float, first: int, size: int
) -> tuple[np.ndarray, float]:
    """Return masses of the tilted total from loss `first` on: (size,), and log E e^(tL).

    Losses and the inverse of the tilt are in grid intervals. What lies outside of the
    window wraps around; the window's ends are chosen such that it is nothing.
    """
    spectrum = np.ones(size // 2 + 1, dtype=complex)
    log_scale, shift = 0.0, -first
    for law, count in zip(laws, counts, strict=True):
        places = np.arange(law.masses.size)
        with np.errstate(divide="ignore"):
            exponents = np.log(law.masses) + tilt * (law.lowest + places)
        peak = exponents.max()
        masses = np.exp(exponents - peak)
        scale = masses.sum()
        masses /= scale
        # Centred, the transform turns slowly, and its powers keep their digits.
        centre = round(masses @ places)
        padded = np.concatenate([masses, np.zeros(size - masses.size)])
        spectrum *= fft.rfft(np.roll(padded, -centre)) ** count
        log_scale += count * (peak + math.log(scale))
        shift += count * (law.lowest + centre)
    return np.roll(fft.irfft(spectrum, size), shift % size).clip(min=0), log_scale


def _solve(
    offsets: np.ndarray,
    interval: float,
    masses: np.ndarray,
    tilt: float,
    log_budget: float,
) -> float:
    """Return where the untilted law of `masses` has the delta e^log_budget.

    Args:
      offsets: (n,) losses in nats, relative to some origin.
      interval: their distance.
      masses: (n,) tilted masses.
      tilt: to be undone: masses e^(-tilt offset) are the law, up to its scale.
      log_budget: logarithm of delta on the same scale.

    Returns:
      Epsilon relative to the same origin.
    """
    budget = math.exp(min(log_budget, _REACH))
    reached = -offsets * tilt <= _REACH
    offsets, masses = offsets[reached], masses[reached]
    upper = masses * np.exp(-tilt * offsets)
    mass = np.cumsum(upper[::-1])[::-1]
    # delta(e) = sum over l > e of (1 - e^(e - l)) p(l), so that, with mass m(l) from l
    # on, delta(l - s) = (1 - e^-s) m(l) + e^-s delta(l) for s up to the interval h.
    # From above, this recurrence has positive terms only.
    decay = math.exp(-interval)
    from_above = signal.lfilter([-math.expm1(-interval)], [1.0, -decay], mass[::-1])
    deltas = from_above[::-1]  # At one interval below each offset.
    larger = np.flatnonzero(deltas > budget)
    if not larger.size:
        return float(offsets[0] - interval)
    last = larger[-1]
    delta = deltas[last + 1] if last + 1 < deltas.size else 0.0
    return float(offsets[last] + math.log1p(-(budget - delta) / (mass[last] - delta)))
