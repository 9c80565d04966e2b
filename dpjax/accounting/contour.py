r"""Delta and epsilon of a sum of privacy losses, along a line through the saddle point.

With K(z) the logarithm of E e^(z L) of the total loss L, and any t > 0,

    delta(epsilon) = 1/(2 pi i) int_{Re z = t} e^(K(z) - z epsilon) / (z (z + 1)) dz
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize

from dpjax.accounting import cumulant
from dpjax.accounting.privacy_loss import Nodes, SampledGaussian

_PRECISION = 1e-12
_MOST_NODES = 2**13
_CHUNK = 32
_ULP = 2.0**-52


class WeakContourError(ValueError):
    """The integrand does not decay soon enough."""


class Side(NamedTuple):
    """Losses in one direction.

    Attributes:
      pairs: (laws,) output laws.
      counts: (laws,) how often each is composed.
      added: whether the direction is "add".
    """

    pairs: Sequence[SampledGaussian]
    counts: np.ndarray
    added: bool

    def log_transform(self, tilt: float, heights: np.ndarray) -> np.ndarray:
        real, sign = (-tilt, -1.0) if self.added else (1.0 + tilt, 1.0)
        total = np.zeros(heights.size, dtype=complex)
        for pair, count in zip(self.pairs, self.counts, strict=True):
            total += count * cumulant.log_moment(pair, real, sign * heights)
        return total


class Line(NamedTuple):
    """The transform on equidistant nodes of a contour.

    Attributes:
      tilt: real part of the contour.
      step: distance of nodes.
      logs: (n,) logarithms of e^K(z) / (z (z + 1)).
      rounding: absolute error of `logs`.
    """

    tilt: float
    step: float
    logs: np.ndarray
    rounding: float

    def log_delta(self, epsilon: float) -> tuple[float, float, float]:
        """Return log delta, its slope, and its relative error."""
        n = np.arange(self.logs.size)
        z = self.tilt + 1j * self.step * n
        exponents = self.logs - self.logs[0].real - 1j * (self.step * n * epsilon)
        terms = np.exp(exponents)
        terms[0] *= 0.5
        total = terms.real.sum()
        coarse = 2 * terms.real[::2].sum()
        slope = (z * terms).real.sum()
        absolute = np.abs(terms)
        error = abs(coarse - total) ** 1.0 + self.rounding * absolute.sum() + (
            absolute[-_CHUNK:].sum()
        )
        if not total > 4 * error:
            raise WeakContourError
        log_scale = math.log(self.step / math.pi) + self.logs[0].real
        value = log_scale - self.tilt * epsilon + math.log(total)
        return value, -slope / total, error / total


def draw(side: Side, tilt: float, scale: float, epsilon: float) -> Line:
    """Return a line that is good at `epsilon`."""
    span = 20.0 * scale
    while True:
        step = 2 * math.pi / span
        logs = np.zeros(0, dtype=complex)
        while True:
            n = np.arange(logs.size, max(_CHUNK, 2 * logs.size))
            heights = step * n
            z = tilt + 1j * heights
            logs = np.append(
                logs, side.log_transform(tilt, heights) - np.log(z) - np.log(1 + z)
            )
            sizes = logs.real[-_CHUNK:].max() - logs.real[0]
            if sizes < -36:
                break
            if logs.size >= _MOST_NODES:
                raise WeakContourError
        terms = np.exp(logs - logs[0].real - 1j * step * np.arange(logs.size) * epsilon)
        terms[0] *= 0.5
        fine, coarse = terms.real.sum(), 2 * terms.real[::2].sum()
        if fine > 0 and abs(fine - coarse) < 1e-10 * fine:
            rounding = _ULP * 4 * max(1.0, np.abs(logs[0].real), abs(tilt * epsilon))
            return Line(tilt, step, logs, rounding)
        span *= 2
        if span > 1e4 * scale:
            raise WeakContourError


def start(
    nodes: Sequence[Nodes], counts: np.ndarray, log_delta: float
) -> tuple[float, float, float]:
    """Return tilt, epsilon and scale by the saddle-point approximation."""
    losses = np.stack([rule.losses for rule in nodes])
    log_weights = np.stack([rule.log_weights for rule in nodes])

    def approximate(log_tilt: float) -> tuple[float, float, float]:
        tilt = math.exp(log_tilt)
        exponents = log_weights + tilt * losses
        peaks = exponents.max(axis=1)
        weights = np.exp(exponents - peaks[:, None])
        sums = weights.sum(axis=1)
        means = (weights * losses).sum(axis=1) / sums
        spreads = (weights * (losses - means[:, None]) ** 2).sum(axis=1) / sums
        moment = counts @ (peaks + np.log(sums))
        epsilon = counts @ means - 1 / tilt - 1 / (1 + tilt)
        curvature = counts @ spreads + 1 / tilt**2 + 1 / (1 + tilt) ** 2
        value = (
            moment
            - tilt * epsilon
            - math.log(tilt)
            - math.log1p(tilt)
            - 0.5 * math.log(2 * math.pi * curvature)
        )
        return value, epsilon, math.sqrt(counts @ spreads)

    def gap(log_tilt: float) -> float:
        return approximate(log_tilt)[0] - log_delta

    spread = approximate(-50.0)[2]
    low = high = 0.5 * math.log(-2 * log_delta + 1e-3) - math.log(spread)
    while gap(low) < 0:
        low -= 1.0
        if low < -100:
            break
    while gap(high) > 0:
        high += 1.0
        if high > 300:
            raise WeakContourError
    root = low if low == high else optimize.brentq(gap, low, high, xtol=1e-6)
    _, epsilon, scale = approximate(root)
    return math.exp(root), epsilon, scale


def solve(side: Side, nodes: Sequence[Nodes], delta: float) -> tuple[float, float]:
    """Return (epsilon, error)."""
    log_delta = math.log(delta)
    tilt, epsilon, scale = start(nodes, side.counts, log_delta)
    line = draw(side, tilt, scale, epsilon)
    for _ in range(50):
        value, slope, error = line.log_delta(epsilon)
        change = (log_delta - value) / slope
        epsilon += change
        if abs(change) <= 1e-15 * abs(epsilon) + 0.01 * error / abs(slope):
            return epsilon, error / abs(slope)
    return epsilon, error / abs(slope)
