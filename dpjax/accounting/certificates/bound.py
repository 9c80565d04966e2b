r"""A bound on the delta of many privacy losses added up, rounding included.

Every law of a loss may be replaced by one whose delta is larger at every epsilon: with
H_g(P, Q) the integral of (P - g Q)_+, for finite measures P and Q,

    H_g(P1 x P2, Q1 x Q2) = int H_{g q2/p2}(P1, Q1) dP2

grows if (P1, Q1) is replaced by a pair whose H is larger at every argument, and so on
for the other factors. What is left is to compose laws on a grid, with these bounds.

1. Laws are tilted by e^(t loss) and divided by their sums. Rounding changes each mass
   of the result a by a factor in e^(+-r), and a composition of n by one in e^(+-n r).
2. Convolutions are cyclic: what lies outside of the window is added to what is inside,
   where nothing falls. Losses above the window are bounded by Chernoff, besides.
3. A fast Fourier transform of N numbers has an error of at most rho = 8 ulp log2 N,
   relatively in the 2-norm (Higham, theorem 24.2, with room for other radices). So the
   spectrum of a is off by rho sqrt(N) |a|, its n-th power by n times that, times the
   growth (1 + rho sqrt(N) |a|)^n, and by what computing the power adds, relatively
   4 ulp (100 + 4 n); the result by all of this over sqrt(N), and by rho of its own.
4. With w the weights that undo the tilt, c the true masses, y the computed ones and E
   the bound of 3 on |c - y|, delta, the sum of w c, is at most the sum of w y plus
   |w| E, by Cauchy and Schwarz.

References:
  Higham (2002), Accuracy and stability of numerical algorithms, second edition.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import fft, optimize

from dpjax.accounting.grids.composition import power
from dpjax.accounting.grids.window import Window
from dpjax.accounting.laws.privacy_loss import LossLaw

_ULP = 2.0**-52

_SUMS = 1e-10
"""Relative error of sums and of what follows them, generously."""

_PRECISION = 1e-6
_REACH = 600.0
_DROPPED = 1e-40
"""What a spectrum below e^-100, taken for 0, can add to E."""

_FACTORS = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
"""Tilts of Chernoff's bound, in tilts of the window."""


class Total(NamedTuple):
    """A bound on the law of a total loss.

    Attributes:
      losses: (n,) in nats.
      masses: (n,) tilted masses, as computed.
      error: E, a bound on the 2-norm of their error.
      tilt: t; masses e^(log_scale - t loss) are the law.
      log_scale: rounded up by what 1. may have taken.
      outside: mass of losses above the window, and of infinite ones.
    """

    losses: np.ndarray
    masses: np.ndarray
    error: float
    tilt: float
    log_scale: float
    outside: float

    def log_delta(self, epsilon: float) -> float:
        """Return a bound on log delta at an `epsilon` that is not below the window."""
        first = int(np.searchsorted(self.losses, epsilon, side="right"))
        above = self.losses[first:] - epsilon
        weights = np.exp(-self.tilt * above) * -np.expm1(-above)
        inside = float(weights @ self.masses[first:].clip(min=0))
        inside += float(np.linalg.norm(weights)) * self.error
        with np.errstate(divide="ignore"):
            log_inside = np.log(inside) + self.log_scale - self.tilt * epsilon
            return float(np.logaddexp(log_inside, np.log(self.outside))) + _SUMS


def compose(
    laws: Sequence[LossLaw], counts: Sequence[int], view: Window, interval: float
) -> Total:
    """Return a bound on the law of the sum of losses, composed `counts` times.

    Args:
      laws: measures on the grid of `interval`.
      counts: how often each is composed, at least once.
      view: the window.
      interval: distance of grid points, in nats.
    """
    first = math.floor(view.low / interval) - 1
    size = math.ceil(view.high / interval) + 2 - first
    size = fft.next_fast_len(max(size, *(law.masses.size for law in laws)), real=True)
    rho = 8 * _ULP * math.log2(size)
    spectrum = np.ones(size // 2 + 1, dtype=complex)
    log_scale, shift, errors, growth = 0.0, -first, 0.0, 0.0
    for law, count in zip(laws, counts, strict=True):
        masses, log_sum, rounding = _tilt(law, view.tilt * interval)
        centre = round(float(masses @ np.arange(masses.size)))
        padded = np.concatenate([masses, np.zeros(size - masses.size)])
        spectrum *= power(fft.rfft(np.roll(padded, -centre)), count)
        errors += count * rho * float(np.linalg.norm(masses))
        growth += count * rho * float(np.linalg.norm(masses)) * math.sqrt(size)
        log_scale += count * (log_sum + rounding)
        shift += count * (law.lowest + centre)
    masses = np.roll(fft.irfft(spectrum, size), shift % size)
    own = rho + 4 * _ULP * (100 * len(counts) + 4 * sum(counts))
    errors += own * float(np.linalg.norm(masses)) + _DROPPED
    losses = interval * (first + np.arange(size))
    outside = _outside(laws, counts, view.tilt * interval, first + size)
    error = errors * math.exp(min(2 * growth, _REACH))
    return Total(losses, masses, error, view.tilt, log_scale, outside)


def epsilon(total: Total, delta: float) -> float:
    """Return an epsilon at which the delta of `total` is at most `delta`.

    Infinite where there is none in the window.
    """
    wanted = math.log(delta) - _SUMS

    def gap(value: float) -> float:
        return min(max(total.log_delta(value) - wanted, -_REACH), _REACH)

    low, high = max(0.0, float(total.losses[0])), float(total.losses[-1])
    if high <= low or gap(low) <= 0:
        return low
    if gap(high) > 0:
        return math.inf
    value = float(optimize.brentq(gap, low, high, xtol=1e-300, rtol=_PRECISION))
    while gap(value) > 0:
        value *= 1 + _PRECISION
    return value


def _tilt(law: LossLaw, tilt: float) -> tuple[np.ndarray, float, float]:
    """Return the tilted masses over their sum, its logarithm, and r of point 1."""
    with np.errstate(divide="ignore"):
        logs = np.log(law.masses)
    tilts = tilt * (law.lowest + np.arange(law.masses.size))
    exponents = logs + tilts
    peak = float(exponents.max())
    masses = np.exp(exponents - peak)
    total = float(masses.sum())
    # Below e^-100 of the peak, even a relative error of 1e-10 is nothing.
    matters = exponents > peak - 100
    largest = float((np.abs(logs[matters]) + np.abs(tilts[matters])).max())
    return masses / total, peak + math.log(total), 4 * _ULP * (largest + 8)


def _outside(
    laws: Sequence[LossLaw], counts: Sequence[int], tilt: float, high: int
) -> float:
    """Return a bound on the mass of losses from `high` on, and of infinite ones.

    Losses and the inverse of the tilt are in grid intervals.
    """
    infinite = sum(n * law.infinity for law, n in zip(laws, counts, strict=True))
    best = 0.0
    for factor in _FACTORS:
        exponent = -factor * tilt * high
        for law, count in zip(laws, counts, strict=True):
            _, log_sum, rounding = _tilt(law, factor * tilt)
            exponent += count * (log_sum + rounding)
        best = min(best, exponent)
    return infinite * (1 + _SUMS) + math.exp(best)
