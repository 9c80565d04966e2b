r"""Where to evaluate the integrand of a Renyi divergence.

The trapezoid rule on the whole real line converges geometrically for these integrands:
with points h apart its relative error is about e^(-2 pi d / h), with d the distance
from the real line up to which they are analytic and no larger. Their logarithm is

    -x^2 / (2 s^2) + up l(x) + down l(-x),   l(x) = log(1 - q + q e^((x - 1/2) / s^2))

whose maxima solve x = up w(x) - down w(-x), with w(x) the share of the sampled
component in the mixture. They lie within a few s^2 of 0, or of one far point.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from scipy import special

_REACH = 9.5
"""Standard deviations: the integrand is e^-45 of its maximum there."""

_LOG_NEGLIGIBLE = 45.0
_LOG_ERROR = 38.0
"""The rule's relative error is e^-38."""

_SPREAD = 6.0
"""Maxima are within this many s^2 of either 0 or the far one."""


@dataclasses.dataclass(frozen=True)
class Laws:
    """Divergences that are asked for: (n,) each.

    Args:
      noise: s, noise multipliers.
      rate: q, sampling probabilities in (0, 1).
      order: orders of the divergence, above 1.
      what: "remove", D(P || Q); "add", D(Q || P); or "replace", between mixtures.
    """

    noise: np.ndarray
    rate: np.ndarray
    order: np.ndarray
    what: str

    def take(self, chosen: np.ndarray) -> "Laws":
        """Return some of the laws, or the same several times."""
        chosen_arrays = (self.noise[chosen], self.rate[chosen], self.order[chosen])
        return Laws(*chosen_arrays, self.what)

    def loss_and_log_density(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss at x, and the logarithm of the density that x is drawn from.

        Each law is asked at its own x: (n,) each.
        """
        variance = self.noise**2
        unsampled = -0.5 * (x * x / variance + math.log(2 * math.pi))
        unsampled -= np.log(self.noise)
        gain = log_mixture(self.rate, (x - 0.5) / variance)
        if self.what == "add":
            return -gain, unsampled
        if self.what == "remove":
            return gain, unsampled + gain
        return gain - log_mixture(self.rate, (-x - 0.5) / variance), unsampled + gain

    def share(self, x: np.ndarray) -> np.ndarray:
        """Return the share of N(1, s^2) in the mixture's density at x."""
        exponent = (x - 0.5) / self.noise**2
        return special.expit(exponent + np.log(self.rate) - np.log1p(-self.rate))

    def far(self) -> np.ndarray:
        """Return where far from 0 the integrand may have a maximum."""
        power = self.order - 1
        if self.what == "remove":
            return self.order
        sign, origin = (1, self.order) if self.what == "replace" else (-1, 0 * power)
        # x = a + c w(-x), and x = -c w(x): the right sides fall as x grows.
        low, high = np.minimum(0.0, sign * power), np.maximum(0.0, sign * power)
        for _ in range(64):
            middle = 0.5 * (low + high)
            share = self.share(-sign * (origin + middle))
            above = middle > sign * power * share
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return origin + high

    def steps(self, far: np.ndarray) -> np.ndarray:
        """Return how far apart the points may be."""
        variance = self.noise**2
        # 1 - q + q e^((x - 1/2) / s^2) is 0 at pi s^2 from the real line. With little
        # noise, the integrand near there is a vanishing part of what is asked for.
        depth = 0.5 / self.noise + self.noise * np.log(self.rate)
        share = np.where(self.noise < 0.25, 0.5 * depth * depth, 0.0)
        wanted = _LOG_ERROR + 0.5 * math.pi**2 * variance - share
        strip = 2 * math.pi**2 * variance / np.maximum(wanted, 1e-300)
        # Beyond a step of 2, already a path nearer to the real line has that error.
        gaussian = 0.65 * self.noise
        step = np.where(strip < 2, np.minimum(gaussian, strip), gaussian)
        if self.what == "remove":
            return step
        power = self.order - 1
        share = self.share(-far if self.what == "replace" else far)
        narrow = 1 + power * share * (1 - share) / variance
        return np.minimum(0.5 * step, 0.6 * self.noise / np.sqrt(narrow))


def log_mixture(rate: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """Return log(1 - q + q e^exponent), elementwise, without loss of digits."""
    change = rate * np.expm1(np.minimum(exponent, 1.0))
    near = np.log1p(np.maximum(change, -0.5))
    far = np.logaddexp(np.log1p(-rate), np.log(rate) + exponent)
    return np.where((exponent < 1) & (change > -0.5), near, far)


def windows(
    laws: Laws, log_integrand: Callable[[Laws, np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where the integrands matter, as windows, and the step: (n, 4), (n,).

    Windows of one law are ordered and do not overlap; they may be empty.
    """
    far = laws.far()
    low, high = _candidates(laws.noise, far)
    # The integrands' widths are at least s, but for some that have a single maximum.
    coarse = 2 * laws.noise
    owner, x = lattice(low, high, coarse)
    exponents = log_integrand(laws.take(owner), x)
    peaks = np.full(far.size, -np.inf)
    np.maximum.at(peaks, owner, exponents)
    kept = exponents >= peaks[owner] - _LOG_NEGLIGIBLE
    owner, x = owner[kept], x[kept]
    window = owner, np.sum(x[:, None] >= low[owner][:, 1:], axis=1)
    least, most = np.full(low.shape, np.inf), np.full(low.shape, -np.inf)
    np.minimum.at(least, window, x)
    np.maximum.at(most, window, x)
    low, high = _apart(least - coarse[:, None], most + coarse[:, None])
    return low, high, laws.steps(far)


def _candidates(noise: np.ndarray, far: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return windows around all places where an integrand may have a maximum."""
    reach = _REACH * noise
    spread = _SPREAD * noise**2
    near = np.minimum(spread, abs(far))
    beyond = np.maximum(far - spread, np.minimum(far, 0))
    low = np.stack([-1 - reach, -reach, 1 - reach, beyond - reach], axis=1)
    high = np.stack([-1 + reach, near + reach, 1 + reach, far + reach], axis=1)
    places = np.argsort(low, axis=1)
    low = np.take_along_axis(low, places, axis=1)
    return _apart(low, np.take_along_axis(high, places, axis=1))


def _apart(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut windows [low, high) short where an earlier one of the same row reaches."""
    high = np.maximum.accumulate(high, axis=1)
    low = np.concatenate([low[:, :1], np.maximum(low[:, 1:], high[:, :-1])], axis=1)
    return low, high


def _counts(
    low: np.ndarray, high: np.ndarray, step: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each window's first multiple of `step`, and how many it has."""
    first, stop = np.ceil(low / step[:, None]), np.ceil(high / step[:, None])
    counts = np.maximum(stop - first, 0.0)
    return np.where(counts > 0, first, 0.0), counts.astype(int)


def sizes(low: np.ndarray, high: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return how many points each law has: (n,)."""
    return _counts(low, high, step)[1].sum(axis=1)


def lattice(
    low: np.ndarray, high: np.ndarray, step: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the multiples of each law's step in its windows, one law after another.

    Args:
      low: (n, windows) where windows begin.
      high: (n, windows) where they end; not in them.
      step: (n,) distance of points.

    Returns:
      Which law each point belongs to, in order, and the points.
    """
    first, counts = _counts(low, high, step)
    flat = counts.ravel()
    before = np.repeat(np.cumsum(flat) - flat, flat)
    places = np.repeat(first.ravel(), flat) + (np.arange(before.size) - before)
    owner = np.repeat(np.arange(step.size), counts.sum(axis=1))
    return owner, places * step[owner]
