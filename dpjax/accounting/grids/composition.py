"""The epsilon of many privacy losses added up.

The law of a sum of losses is the convolution of their laws: a product of Fourier
transforms. A transform has absolute errors, and what is asked for is a far tail; so
each law is first tilted by e^(t loss), which moves its middle towards that tail. Errors
are then relative to the tail itself, and a delta of 1e-15 is as good as one of 1e-5.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import fft, signal, special

from dpjax.accounting.grids.window import Window
from dpjax.accounting.laws.privacy_loss import LossLaw

_REACH = 600.0
"""Exponents beyond this neither matter nor fit."""

_PRICE = 2e-6
"""Share of delta that pays for what the window leaves out, and for sums."""


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
      Epsilon in nats, infinite where `delta` is below the mass at infinity, and at
      least what the window can tell.

    Guarantee: not below the exact value of the composition. Rounding, of relative size
    2^-52 a loss, and the window are paid for by asking for a slightly smaller delta.
    """
    budget = delta * (1 - _PRICE - window.rounding) - _infinite(laws, counts)
    if budget <= 0:
        return math.inf
    offsets, masses, log_scale = _total(laws, counts, window, interval)
    log_budget = math.log(budget) - log_scale
    relative = _solve(offsets, interval, masses, window.tilt, log_budget)
    return max(0.0, window.least, window.bound + relative)


def log_delta(
    laws: Sequence[LossLaw],
    counts: Sequence[int],
    window: Window,
    *,
    interval: float,
    delta: float,
    epsilon: float,
) -> float:
    """Return the logarithm of the delta at `epsilon` of the composition of `laws`.

    The arguments are those of `epsilon`, with a window for about the right `delta`.

    Guarantee: not below the exact value. Rounding and the window are paid for by a
    share of `delta`.
    """
    window = window._replace(low=min(window.low, epsilon - interval))
    offsets, masses, log_scale = _total(laws, counts, window, interval)
    above = offsets - (epsilon - window.bound)
    paying = (above > 0) & (masses > 0)
    logs = np.log(masses[paying]) - window.tilt * offsets[paying]
    logs += np.log(-np.expm1(-above[paying]))
    price = delta * (_PRICE + window.rounding) + _infinite(laws, counts)
    return float(special.logsumexp([*(logs + log_scale), math.log(price)]))


def _infinite(laws: Sequence[LossLaw], counts: Sequence[int]) -> float:
    return sum(n * law.infinity for law, n in zip(laws, counts, strict=True))


def _total(
    laws: Sequence[LossLaw], counts: Sequence[int], window: Window, interval: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the law of the total in the window: offsets, tilted masses, and scale.

    Offsets are losses less the bound; masses times e^(scale - tilt offset) are the law.
    """
    first = math.floor(window.low / interval) - 1
    size = math.ceil(window.high / interval) + 2 - first
    size = fft.next_fast_len(max(size, *(law.masses.size for law in laws)), real=True)
    tilt = window.tilt
    masses, log_scale = _convolve(laws, counts, tilt * interval, first, size)
    offsets = interval * (first + np.arange(size)) - window.bound
    return offsets, masses, log_scale - tilt * window.bound


def _convolve(
    laws: Sequence[LossLaw], counts: Sequence[int], tilt: float, first: int, size: int
) -> tuple[np.ndarray, float]:
    """Return the tilted total's masses from loss `first` on, (size,), and log E e^(tL).

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
        spectrum *= power(fft.rfft(np.roll(padded, -centre)), count)
        log_scale += count * (peak + math.log(scale))
        shift += count * (law.lowest + centre)
    return np.roll(fft.irfft(spectrum, size), shift % size).clip(min=0), log_scale


def power(spectrum: np.ndarray, count: int) -> np.ndarray:
    """Return spectrum^count, and 0 without the work where that is below e^-100."""
    with np.errstate(divide="ignore"):
        matters = count * np.log(np.abs(spectrum)) > -100
    power = np.zeros_like(spectrum)
    power[matters] = spectrum[matters] ** count
    return power


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
