"""Which losses of a composition matter at a given delta, and how far to tilt there."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from dpjax.accounting.laws import tilting
from dpjax.accounting.laws.privacy_loss import Nodes

_SHARES = (0.7, 1.0)
"""Tilts to try, in tilts that would make the tail the middle.

All of it lets a law of rare, large losses spread over a window several times as long;
less of it leaves a law of two heaps where it was.
"""

_LOG_OUTSIDE = 14.0
"""Beyond either end of the window is at most e^-14 of the tail."""

_ROUNDING = 256 * 2.0**-52
"""Error of the transform a composed loss, generously."""

_MOST_ROUNDING = 1e-3
"""Rounding that asks for more tilt, relatively to delta."""

_MOST_UNDONE = 18.0
"""Undoing the tilt multiplies rounding by at most e^18: 1.5e-8 of the tail."""

_AROUND = 1e-6
"""To either side of a loss that is the only one, relatively."""

_REACH = 600.0
"""Exponents beyond this do not fit."""


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

    @property
    def least(self) -> float:
        """The least loss that is told from rounding as the tilt is undone."""
        depth = _MOST_UNDONE / self.tilt if self.tilt else math.inf
        return max(self.low, self.bound - depth)


def find_window(
    nodes: Sequence[Nodes],
    counts: Sequence[int],
    delta: float,
    most_tilt: float = math.inf,
) -> Window:
    """Return the window that the epsilon at `delta` of a composition asks for.

    Args:
      nodes: quadrature rules of the losses.
      counts: how often each loss is composed, at least once.
      delta: in (0, 1).
      most_tilt: at least 0; less than the default keeps small losses apart from
        rounding, at the cost of the tail.
    """
    quadrature = _quadrature(nodes, counts)
    _, mean, variance = _cumulants(quadrature, 0.0)
    if not variance:  # one loss alone: there is nothing to tilt
        around = _AROUND * (1 + abs(mean))
        rounding = _ROUNDING * sum(counts)
        return Window(mean - around, mean + around, mean, 0.0, rounding)
    log_delta = math.log(delta)
    saddle = _saddle(quadrature, log_delta)
    bound = _cumulants(quadrature, saddle)[1]
    for share in _SHARES:
        tilt = min(share * saddle, most_tilt)
        # What the tilted law has above epsilon.
        log_tail = log_delta - _cumulants(quadrature, tilt)[0] + tilt * bound
        log_tail = min(0.0, log_tail)
        rounding = _ROUNDING * sum(counts) * math.exp(min(-log_tail, _REACH))
        if rounding <= _MOST_ROUNDING:
            break
    low, high = _ends(quadrature, tilt, _LOG_OUTSIDE - log_tail)
    return Window(low, high, bound, tilt, rounding)


def agree(
    some: Sequence[Nodes], others: Sequence[Nodes], counts: Sequence[int], view: Window
) -> bool:
    """Tell whether totals of two kinds of laws are alike, tilted or not.

    Args:
      some: rules of the losses that a window was found for.
      others: rules of as many others.
      counts: how often each loss is composed.
      view: the window.
    """
    pair = [_quadrature(nodes, counts) for nodes in (some, others)]
    for tilt in (0.0, view.tilt):
        (log_a, mean_a, square_a), (log_b, mean_b, square_b) = (
            _cumulants(quadrature, tilt) for quadrature in pair
        )
        if abs(mean_a - mean_b) > 1e-2 * (view.high - view.low):
            return False
        if abs(log_a - log_b) > 0.1 or abs(square_a - square_b) > 0.05 * square_a:
            return False
    return True


def _quadrature(nodes: Sequence[Nodes], counts: Sequence[int]) -> "_Quadrature":
    size = max(rule.losses.size for rule in nodes)
    return _Quadrature(
        np.stack([_padded(rule.losses, size, rule.losses[0]) for rule in nodes]),
        np.stack([_padded(_normal(rule), size, -np.inf) for rule in nodes]),
        np.array(counts, dtype=float),
    )


def _normal(rule: Nodes) -> np.ndarray:
    """Return logarithms of weights that sum to 1, as tilts near 0 ask for."""
    return rule.log_weights - special.logsumexp(rule.log_weights)


def _padded(values: np.ndarray, size: int, fill: float) -> np.ndarray:
    return np.pad(values, (0, size - values.size), constant_values=fill)


class _Quadrature(NamedTuple):
    """Quadrature rules of the laws: (laws, nodes), and counts: (laws,)."""

    losses: np.ndarray
    log_weights: np.ndarray
    counts: np.ndarray


def _cumulants(quadrature: _Quadrature, tilt: float) -> tuple[float, float, float]:
    """Return log E e^(tilt loss) of the total, and its first two derivatives."""
    return tilting.cumulants(*quadrature, tilt)


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


def _ends(quadrature: _Quadrature, tilt: float, outside: float) -> tuple[float, float]:
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
