r"""Laws of sums of positive random variables, on a grid of logarithms, from above.

A law is replaced by one that is larger in the convex order: mass between two grid
points goes to both, such that the mean stays. Mass below the grid goes to 0 and to the
lowest point, and mass above it to 0 and to infinity, where it leaves its mean. Sums of
independent variables keep that order, and so do expectations of convex functions.

Of a likelihood ratio M = dP/dQ under Q, both of

    int (P - e^eps Q)_+ = E (M - e^eps)_+,   int (Q - e^eps P)_+ = E (1 - e^eps M)_+

are such expectations: what a law from above says is not below the truth. All terms are
positive, so that far tails keep their digits.

References:
  Doroshenko, Ghazi, Kamath, Kumar and Manurangsi (2022), Connect the dots: tighter
  discrete approximations of privacy loss distributions; Feldman and Shenfeld (2026),
  Efficient privacy loss accounting for subsampling and random allocation, arXiv
  2602.17284.
"""

import math
from typing import NamedTuple

import numpy as np


class PositiveLaw(NamedTuple):
    """A law on 0, on points of which the logarithms are equally far apart, and beyond.

    Attributes:
      lowest: logarithm of the lowest point, in intervals.
      interval: distance of the logarithms.
      masses: (n,) probabilities of the points.
      zero: probability of 0.
      beyond: mean that mass at infinity has left.
    """

    lowest: int
    interval: float
    masses: np.ndarray
    zero: float
    beyond: float

    @property
    def logs(self) -> np.ndarray:
        """Logarithms of the points: (n,)."""
        return self.interval * (self.lowest + np.arange(self.masses.size))

    def trimmed(self, tail: float) -> "PositiveLaw":
        """Return the law without its ends, of mass and share of the mean to `tail`."""
        means = self.masses * np.exp(self.logs)
        above = np.cumsum(means[::-1])[::-1] > tail * means.sum()
        below = np.cumsum(self.masses) > tail
        last = int(np.flatnonzero(above)[-1])
        first = min(int(np.argmax(below)), last)
        kept = self.masses[first : last + 1].copy()
        lift = np.exp(self.interval * (np.arange(first) - first))
        kept[0] += float(self.masses[:first] @ lift)
        lost = float(self.masses[:first] @ (1 - lift)) + self.masses[last + 1 :].sum()
        return PositiveLaw(
            self.lowest + first,
            self.interval,
            kept,
            self.zero + float(lost),
            self.beyond + float(means[last + 1 :].sum()),
        )

    def finer(self, interval: float) -> "PositiveLaw":
        """Return the law on a grid of another `interval`."""
        places = self.logs / interval
        cells = np.floor(places)
        share = np.expm1(interval * (places - cells)) / math.expm1(interval)
        lowest = int(cells[0])
        cells = (cells - lowest).astype(int)
        size = int(cells[-1]) + 2
        masses = np.bincount(cells, self.masses * (1 - share), size)
        masses += np.bincount(cells + 1, self.masses * share, size)
        return self._replace(lowest=lowest, interval=interval, masses=masses)


def added(one: PositiveLaw, other: PositiveLaw) -> PositiveLaw:
    """Return the law of the sum of two independent variables of one interval."""
    h, shift = one.interval, other.lowest - one.lowest
    size = max(one.masses.size, shift + other.masses.size) - min(0, shift)
    lowest = min(one.lowest, other.lowest)
    masses = np.zeros(size + math.ceil(math.log(2) / h) + 2)
    for gap in range(shift - one.masses.size + 1, shift + other.masses.size):
        # Points that are `gap` apart have one relation to the grid.
        first = max(0, shift - gap)
        last = min(one.masses.size, shift + other.masses.size - gap)
        start = first + gap - shift
        both = one.masses[first:last] * other.masses[start : start + last - first]
        place = float(np.logaddexp(0.0, gap * h)) / h
        cell = math.floor(place)
        share = math.expm1(h * (place - cell)) / math.expm1(h)
        at = one.lowest + first + cell - lowest
        masses[at : at + both.size] += (1 - share) * both
        masses[at + 1 : at + 1 + both.size] += share * both
    for law, zero in ((one, other.zero), (other, one.zero)):
        at = law.lowest - lowest
        masses[at : at + law.masses.size] += zero * law.masses
    zero = one.zero * other.zero
    return PositiveLaw(lowest, h, masses, zero, one.beyond + other.beyond)


def repeated(law: PositiveLaw, count: int, tail: float, points: int) -> PositiveLaw:
    """Return the law of a sum of `count` independent variables.

    Args:
      law: of one of them.
      count: at least 1.
      tail: what may be trimmed of each sum on the way, relatively.
      points: of a sum's grid, about.
    """
    single, double = law, added(law, law).trimmed(tail)
    for digit in bin(count)[3:]:
        single, double = _alike(single, double, points)
        middle = added(single, double).trimmed(tail)
        twice = (double, middle) if digit == "1" else (single, middle)
        outer = added(twice[0], twice[0]).trimmed(tail)
        single, double = (middle, outer) if digit == "1" else (outer, middle)
    return single


def _alike(
    one: PositiveLaw, other: PositiveLaw, points: int
) -> tuple[PositiveLaw, PositiveLaw]:
    """Return two laws on a grid of about `points` points, which is no coarser."""
    interval = min(one.interval, np.ptp(other.logs) / points)
    if interval > 0.8 * one.interval:
        return one, other
    return one.finer(interval), other.finer(interval)
