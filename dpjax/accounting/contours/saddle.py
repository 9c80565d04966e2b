r"""Where the contour crosses the real line, and how closely it must be sampled.

All of this is about real moments of the total loss L, from a few nodes a law: enough to
place a contour, not to integrate along it. With K(t) = log E e^(t L), Chernoff's bound
says P(L > e) <= e^(K(t) - t e), and of a loss that is e^(t L) times as likely as L the
same with K(t + s) - K(t).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from dpjax.accounting.contours import quadrature
from dpjax.accounting.contours.quadrature import Region
from dpjax.accounting.laws import tilting
from dpjax.accounting.laws.privacy_loss import SampledGaussian

_SPACING = 0.12
_FEWEST_NODES, _MOST_NODES = 201, 4001


class WeakContourError(ValueError):
    """The integrand does not decay soon enough, or what is left of it is rounding."""


class Side(NamedTuple):
    """Losses of one step in one direction.

    Attributes:
      pairs: (laws,) output laws.
      counts: (laws,) how often each is composed.
      added: whether the losses are -L under Q, instead of L under P.
    """

    pairs: Sequence[SampledGaussian]
    counts: np.ndarray
    added: bool


class Rough(NamedTuple):
    """A rough quadrature of the losses of a side: (laws, nodes) each.

    Attributes:
      x: outputs.
      losses: losses there.
      log_weights: logarithms of their weights.
      counts: (laws,) how often each is composed.
      variance: of the losses of plain releases, whose moments have a closed form.
    """

    x: np.ndarray
    losses: np.ndarray
    log_weights: np.ndarray
    counts: np.ndarray
    variance: float

    def cumulants(self, tilt: float) -> tuple[float, float, float]:
        """Return K(t) of one step, and its first two derivatives."""
        value, mean, spread = tilting.cumulants(
            self.losses, self.log_weights, self.counts, tilt
        )
        return (
            value + 0.5 * self.variance * tilt * (tilt + 1),
            mean + self.variance * (tilt + 0.5),
            spread + self.variance,
        )

    def moments(self, tilts: np.ndarray) -> np.ndarray:
        """Return K at all `tilts`."""
        values = tilting.log_moments(self.losses, self.log_weights, self.counts, tilts)
        return values + 0.5 * self.variance * tilts * (tilts + 1)


def rough(side: Side, region: Region) -> Rough:
    """Return rough quadratures of the losses of `side` within `region`."""
    both = list(zip(side.pairs, side.counts, strict=True))
    sampled = [pair for pair, _ in both if pair.sampling_prob < 1]
    counts = np.array([n for pair, n in both if pair.sampling_prob < 1], dtype=float)
    variance = sum(n * pair.shift**2 for pair, n in both if pair.sampling_prob == 1)
    ranges = [quadrature.outputs(pair, region) for pair in sampled]
    widths = [
        (high - low) / (_SPACING * pair.noise_multiplier)
        for (low, high), pair in zip(ranges, sampled, strict=True)
    ]
    size = int(np.clip(max(widths, default=0.0), _FEWEST_NODES, _MOST_NODES))
    x = np.array([np.linspace(*ends, size) for ends in ranges]).reshape(-1, size)
    rows = [_row(pair, region, row) for pair, row in zip(sampled, x, strict=True)]
    losses, log_weights = np.array(rows).reshape(-1, 2, size).swapaxes(0, 1)
    return Rough(x, losses, log_weights, counts, float(variance))


def _row(pair: SampledGaussian, region: Region, x: np.ndarray) -> list[np.ndarray]:
    """Return the losses at `x` and the logarithms of their weights."""
    losses = pair.loss(x)
    log_weights = quadrature.log_density(pair, x)
    if not region.added:
        log_weights = log_weights + losses
    log_weights = log_weights - special.logsumexp(log_weights)
    log_weights += region.log_kept(pair, x)
    return [-losses if region.added else losses, log_weights]


def start(rules: Rough, repeats: float, log_delta: float) -> tuple[float, float]:
    """Return tilt and epsilon by the saddle-point approximation.

    It falls from delta = 1 as the tilt grows from 0; epsilon may be negative.
    """

    def approximate(log_tilt: float) -> tuple[float, float]:
        tilt = math.exp(log_tilt)
        moment, mean, spread = (repeats * number for number in rules.cumulants(tilt))
        epsilon = mean - 1 / tilt - 1 / (1 + tilt)
        curvature = spread + 1 / tilt**2 + 1 / (1 + tilt) ** 2
        value = moment - tilt * epsilon - math.log(tilt) - math.log1p(tilt)
        return value - 0.5 * math.log(2 * math.pi * curvature) - log_delta, epsilon

    variance = repeats * spread(rules)
    low = high = 0.5 * math.log((1e-3 - 2 * log_delta) / variance)
    while approximate(low)[0] < 0 and low > -300:
        low -= 1.0
    while approximate(high)[0] > 0:
        high += 1.0
        if high > 300:
            raise WeakContourError
    root = low
    if low < high:
        root = optimize.brentq(lambda u: approximate(u)[0], low, high, xtol=1e-6)
    return math.exp(root), approximate(root)[1]


def spread(rules: Rough) -> float:
    """Return the variance of the losses of one step."""
    variance = rules.cumulants(0.0)[2]
    if not variance > 0:
        raise WeakContourError
    return variance
