"""Real moments at a ladder of tilts, and what Chernoff's bound makes of them.

They place a contour, and say how closely it must be sampled. With K(t) = log E e^(t L),
P(L > e) is at most e^(K(t) - t e).
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from dpjax.accounting.contours import saddle
from dpjax.accounting.contours.quadrature import Region
from dpjax.accounting.contours.saddle import Rough, Side, WeakContourError

DIGITS = 36.0
"""e^-36, relatively to delta, is nothing."""

_RATIO = 1.2
_REACH = 24
"""Tilts are tried from 1.2^-24 to 1.2^24 times the saddle point."""

_LOWER, _MOST_LOSS = 20, 8.0
"""How many ratios below the saddle point a contour may lie, at the cost of digits."""

_FLOORS = np.append(np.linspace(0.95, 0.25, 15), np.geomspace(0.2, 0.005, 12))


class Table(NamedTuple):
    """K of one step at a ladder of tilts.

    Attributes:
      tilts: (n,) in increasing order, 0 first.
      moments: (n,) K there.
    """

    tilts: np.ndarray
    moments: np.ndarray

    @classmethod
    def around(cls, rules: Rough, tilt: float) -> "Table":
        """Return the table around `tilt`."""
        tilts = np.append(0.0, tilt * _RATIO ** np.arange(-_REACH, _REACH + 1))
        return cls(tilts, rules.moments(tilts))

    @property
    def payoffs(self) -> np.ndarray:
        """Logarithms p of the least factors with (1 - e^-l)_+ <= e^(t l + p): (n,)."""
        return special.xlogy(self.tilts, self.tilts) - special.xlog1py(
            1 + self.tilts, self.tilts
        )

    def bound(self, repeats: float, log_delta: float) -> float:
        """Return an epsilon that is not exceeded at `log_delta`."""
        heights = repeats * self.moments + self.payoffs - log_delta
        return float((heights[1:] / self.tilts[1:]).min())

    def delta_bound(self, epsilon: float) -> tuple[float, float]:
        """Return a log delta that one step does not exceed, and its tilt."""
        heights = self.moments + self.payoffs - epsilon * self.tilts
        index = 1 + int(heights[1:].argmin())
        return min(0.0, float(heights[index])), float(self.tilts[index])

    def chernoff(
        self, repeats: np.ndarray, epsilons: np.ndarray, log_deltas: np.ndarray
    ) -> np.ndarray:
        """Return K(t) - t epsilon - log delta: (repeats, tilts)."""
        total = repeats[:, None] * self.moments - epsilons[:, None] * self.tilts
        return total - log_deltas[:, None]

    def aliases(self, chernoff: np.ndarray, index: int, digits: float) -> np.ndarray:
        """Return the span that the tilt of `index` asks for: (repeats,).

        A sum over nodes of a distance h on the contour through t is, by Poisson's
        summation formula and with the span A = 2 pi / h,

            sum over n of delta(epsilon + n A) e^(n t A)

        of which n = 0 is wanted. The others are positive, and at n = 1 or n = -1 at
        most e^(K(u) - u epsilon - |u - t| A), for any u above t, or from 0 to t.
        """
        with np.errstate(over="ignore"):
            apart = np.abs(self.tilts - self.tilts[index] + 1e-300)
            excess = (chernoff + digits) / apart
        above = excess[:, index + 1 :].min(axis=1)
        return np.maximum(above, excess[:, :index].min(axis=1))

    def place(
        self, repeats: float, epsilon: float, log_delta: float, digits: float
    ) -> tuple[int, float]:
        """Return the index of the tilt to use, and the span that it asks for.

        A tilt below the saddle point may need far fewer nodes, where losses have a
        heavy tail; terms that cancel then cost digits.
        """
        row = self.chernoff(
            np.array([repeats]), np.array([epsilon]), np.array([log_delta])
        )
        heights = row[0, 1:] - np.log(self.tilts[1:]) - np.log1p(self.tilts[1:])
        middle = int(heights[1:-1].argmin()) + 2
        best = middle, float(self.aliases(row, middle, digits)[0])
        for index in range(middle - 1, max(1, middle - _LOWER), -1):
            if heights[index - 1] - heights[middle - 1] > _MOST_LOSS:
                break
            span = float(self.aliases(row, index, digits)[0])
            if span < 0.9 * best[1]:
                best = index, span
        return best


def bounds(side: Side, repeats: np.ndarray, delta: float) -> np.ndarray:
    """Return epsilons that `repeats` steps do not exceed at `delta`: (repeats,)."""
    log_delta = math.log(delta)
    most = float(side.counts.sum() * repeats.max())
    table = wide(side, log_delta - math.log(most), repeats.min(), repeats.max())
    heights = repeats[:, None] * table.moments[1:] + (table.payoffs[1:] - log_delta)
    # The rough quadrature is good to better than this.
    return 1.001 * (heights / table.tilts[1:]).min(axis=1)


def wide(side: Side, log_tail: float, fewest: float = 1.0, most: float = 1.0) -> Table:
    """Return a table for any tilt that numbers of steps in this range may ask for."""
    rules = saddle.rough(side, Region(log_tail - DIGITS, side.added))
    variance = saddle.spread(rules)
    low, high = 1e-3 / math.sqrt(most * variance), 400 / math.sqrt(fewest * variance)
    tilts = np.geomspace(low, high, 40 + 6 * math.ceil(math.log(high / low)))
    return Table(np.append(0.0, tilts), np.append(0.0, rules.moments(tilts)))


def find_floor(
    rules: Rough,
    side: Side,
    region: Region,
    repeats: float,
    epsilon: float,
    least: float,
) -> tuple[Region, Table]:
    """Return the highest floor below which no losses add up to epsilon, and its table.

    Raises:
      WeakContourError: there is none.
    """
    sampled = [pair for pair in side.pairs if pair.sampling_prob < 1]
    tilts = np.append(0.0, np.geomspace(0.3, 3e6, 60) / epsilon)

    def rest(share: float) -> tuple[Region, Table]:
        floored = region._replace(floor=float(share * epsilon))
        log_rest = [
            floored.log_rest(pair, x) for pair, x in zip(sampled, rules.x, strict=True)
        ]
        below = rules._replace(log_weights=rules.log_weights + np.array(log_rest))
        return floored, Table(tilts, below.moments(tilts))

    low, high, found = 0, len(_FLOORS) - 1, None
    while low <= high:
        middle = (low + high) // 2
        floored, table = rest(_FLOORS[middle])
        if (repeats * table.moments - epsilon * tilts).min() < least:
            found, high = (floored, table), middle - 1
        else:
            low = middle + 1
    if found is None:
        raise WeakContourError
    return found
