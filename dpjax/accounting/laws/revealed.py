r"""The privacy loss of a release that first says which of several pairs it is of.

With probability w_i, and saying so, the outputs have the laws (P_i, Q_i) on two data
sets. Where the roles may be swapped, an adversary chooses, at every argument of

    H_a(P, Q) = int (P - a Q)_+

between (P_i, Q_i) and (Q_i, P_i). The larger H is that of (P_i, Q_i) from a = 1 on, and
of (Q_i, P_i) below. It belongs to a pair of its own: its positive losses are those of
(P_i, Q_i), its negative ones mirror them, p(-l) = e^-l p(l), and otherwise it is 0.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dpjax.accounting.laws.privacy_loss import (
    LossLaw,
    Nodes,
    SampledGaussian,
    grid_laws,
)

_LEAST = 1e-300


class Component(NamedTuple):
    """One of the pairs.

    Attributes:
      weight: w_i, its probability, on either data set.
      pair: its output laws, (P_i, Q_i).
      swapped: whether its roles may be swapped.
    """

    weight: float
    pair: SampledGaussian
    swapped: bool


@dataclasses.dataclass(frozen=True)
class RevealedMixture:
    """The pair of the module's text: what a grid, and the Renyi accountant, ask of it.

    Args:
      components: at least one, by falling weight; the weights sum to 1.
    """

    components: tuple[Component, ...]

    @property
    def symmetric(self) -> bool:
        """Whether adding costs what removing costs."""
        return all(part.swapped or part.pair.symmetric for part in self.components)

    @property
    def distance(self) -> float:
        """Total variation distance of the two laws: the delta at epsilon 0."""
        return sum(part.weight * part.pair.distance for part in self.components)

    def nodes(self, tail: float) -> tuple[Nodes, Nodes]:
        """Return quadrature rules of the loss when one is removed, and added."""
        kept, _ = self._kept(tail)
        rules = []
        for weight, pair, swapped in kept:
            both = pair.nodes(tail)
            both = (_swapped_nodes(both[0]),) * 2 if swapped else both
            rules.append([_weighted(rule, weight) for rule in both])
        removed, added = (
            Nodes(*map(np.concatenate, zip(*side, strict=True)))
            for side in zip(*rules, strict=True)
        )
        return removed, added

    def grid_laws(self, interval: float, tail: float) -> tuple[LossLaw, LossLaw]:
        """Return the laws of the loss when one is removed and added, on a grid.

        Args:
          interval: distance of grid points, in nats.
          tail: mass beyond the grid's ends; as much of the rarest components counts as
            an infinite loss.

        Guarantee: that of `privacy_loss.grid_laws`.
        """
        kept, infinite = self._kept(tail)
        sides: tuple[list[LossLaw], list[LossLaw]] = ([], [])
        for weight, pair, swapped in kept:
            both = grid_laws(pair, interval, tail)
            both = (_swapped_law(both[0], interval),) * 2 if swapped else both
            for side, law in zip(sides, both, strict=True):
                masses = weight * law.masses
                side.append(LossLaw(law.lowest, masses, weight * law.infinity))
        return _total(sides[0], infinite), _total(sides[1], infinite)

    def _kept(self, tail: float) -> tuple[Sequence[Component], float]:
        """Return all but the rarest components, and how rare these are together."""
        weights = np.array([part.weight for part in self.components])
        rest = np.append(np.cumsum(weights[::-1])[::-1], 0.0)
        count = max(1, int(np.argmax(rest <= tail)))
        return self.components[:count], float(rest[count])


def _weighted(rule: Nodes, weight: float) -> Nodes:
    return Nodes(rule.losses, rule.log_weights + np.log(weight))


def _swapped_nodes(rule: Nodes) -> Nodes:
    """Return the rule of the larger pair: (nodes,) with a node at 0."""
    above = rule.losses > 0
    losses, log_weights = rule.losses[above], rule.log_weights[above]
    mirrored = log_weights - losses
    rest = 1 - np.exp(log_weights).sum() - np.exp(mirrored).sum()
    return Nodes(
        np.concatenate([-losses[::-1], [0.0], losses]),
        np.concatenate([mirrored[::-1], [np.log(max(rest, _LEAST))], log_weights]),
    )


def _swapped_law(law: LossLaw, interval: float) -> LossLaw:
    """Return the law of the larger pair."""
    first = max(0, 1 - law.lowest)
    above = law.masses[first:]
    places = law.lowest + first + np.arange(above.size)
    top = int(places[-1]) if above.size else 0
    masses = np.zeros(2 * top + 1)
    masses[top + places] = above
    masses[top - places] = above * np.exp(-interval * places)
    masses[top] = max(0.0, 1 - law.infinity - masses.sum())
    return LossLaw(-top, masses, law.infinity)


def _total(laws: Sequence[LossLaw], infinite: float) -> LossLaw:
    """Return the sum of measures on one grid, with more at infinity."""
    lowest = min(law.lowest for law in laws)
    size = max(law.lowest + law.masses.size for law in laws) - lowest
    masses = np.zeros(size)
    for law in laws:
        start = law.lowest - lowest
        masses[start : start + law.masses.size] += law.masses
    return LossLaw(lowest, masses, infinite + sum(law.infinity for law in laws))
