"""The grid on which the losses of sampled Gaussian releases are composed.

Its interval comes from the scale of the losses, so that small losses are resolved and
large ones fit; its ends come from delta.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import numpy as np

from dpjax.accounting.grids import composition, window
from dpjax.accounting.laws import privacy_loss
from dpjax.accounting.laws.allocated import AllocatedGaussian
from dpjax.accounting.laws.mixture import GaussianMixture
from dpjax.accounting.laws.revealed import RevealedMixture

_EXTRA_VARIANCE = 1e-4
"""What the grid may add to the variance of the total loss, relatively."""

_LAW_POINTS = 2**18
_TOTAL_POINTS = 2**20
"""Most grid points of one law, and of the composition: a bound on time and memory."""

_ROUNDS = 6
"""How often a tilt is divided by four where epsilon is below its window."""

_TAIL = 1e-6
"""What the grid's ends may add to delta, relatively."""

Laws: TypeAlias = (
    privacy_loss.SampledGaussian | GaussianMixture | RevealedMixture | AllocatedGaussian
)
"""What can be put on a grid."""

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Grid:
    """Sampled Gaussian releases, and the grid for their losses.

    Args:
      pairs: output laws of the releases.
      tail: mass of one law beyond the ends of the grid.
      interval: distance of grid points, in nats.
    """

    pairs: tuple[Laws, ...]
    tail: float
    interval: float

    @classmethod
    def choose(
        cls,
        pairs: Sequence[Laws],
        counts: Sequence[int],
        delta: float,
        side: int | None = None,
    ) -> "Grid":
        """Return the coarsest grid that is fine enough for `pairs`, `counts` times.

        Args:
          pairs: output laws of the releases.
          counts: how often each is composed, at least once.
          delta: in (0, 1).
          side: 0 or 1 for one that only fits losses when one is removed, or added.
        """
        tail = max(_TAIL * delta / sum(counts), 1e-300)
        grid = cls(tuple(pairs), tail, _interval(pairs, counts, tail, side or 0))
        windows = grid.windows(counts, delta)
        if side is not None:
            windows = windows[side : side + 1]
        span = max(view.high - view.low for view in windows) / _TOTAL_POINTS
        return dataclasses.replace(grid, interval=max(grid.interval, span))

    def laws(self) -> list[list[privacy_loss.LossLaw]]:
        """Return the laws of all releases on the grid, for each direction."""
        grid = self.interval, self.tail
        both = [
            privacy_loss.grid_laws(pair, *grid)
            if isinstance(pair, privacy_loss.SampledGaussian)
            else pair.grid_laws(*grid)
            for pair in self.pairs
        ]
        return self._directions(both)

    def windows(
        self, counts: Sequence[int], delta: float, most_tilt: float = math.inf
    ) -> list[window.Window]:
        """Return the window of the composition, for each direction."""
        directions = self._directions([pair.nodes(self.tail) for pair in self.pairs])
        return [
            window.find_window(side, counts, delta, most_tilt) for side in directions
        ]

    def epsilon(
        self,
        laws: list[list[privacy_loss.LossLaw]],
        counts: Sequence[int],
        delta: float,
    ) -> float:
        """Return the epsilon at `delta` of the releases, composed `counts` times.

        Args:
          laws: what `laws()` returns, so that it can serve several compositions.
          counts: one per pair, at least 1.
          delta: in (0, 1).
        """
        pairs = zip(self.pairs, counts, strict=True)
        if sum(count * pair.distance for pair, count in pairs) <= delta:
            return 0.0
        largest = 0.0
        views = self.windows(counts, delta)
        for index, (side, view) in enumerate(zip(laws, views, strict=True)):
            # Adding often costs so much less than removing that a bound tells.
            if view.bound > 0.99 * largest:
                value = self._of_side(index, side, view, counts, delta)
                largest = max(largest, value)
        return largest

    def _of_side(
        self,
        index: int,
        laws: Sequence[privacy_loss.LossLaw],
        view: window.Window,
        counts: Sequence[int],
        delta: float,
    ) -> float:
        """Return the epsilon of one direction, with less tilt where it is too small.

        A rare large loss may draw the window above what `delta` asks for.
        """
        value = math.inf
        for _ in range(_ROUNDS):
            found = composition.epsilon(
                laws, counts, view, interval=self.interval, delta=delta
            )
            value = min(value, found)
            if found > view.least or view.least <= 0 or not view.tilt:
                break
            view = self.windows(counts, delta, view.tilt / 4)[index]
        return value

    def log_delta(
        self,
        laws: list[list[privacy_loss.LossLaw]],
        counts: Sequence[int],
        epsilon: float,
        delta: float,
    ) -> float:
        """Return the logarithm of the delta at `epsilon`, which is about `delta`.

        Args:
          laws: what `laws()` returns.
          counts: one per pair, at least 1.
          epsilon: at least 0.
          delta: what the grid was chosen for.
        """
        logs = []
        for index, (side, view) in enumerate(
            zip(laws, self.windows(counts, delta), strict=True)
        ):
            for _ in range(_ROUNDS):
                if epsilon >= view.least:
                    break
                view = self.windows(counts, delta, view.tilt / 4)[index]
            logs.append(
                composition.log_delta(
                    side,
                    counts,
                    view,
                    interval=self.interval,
                    delta=delta,
                    epsilon=epsilon,
                )
            )
        return max(logs)

    def _directions(self, both: Sequence[tuple[_T, _T]]) -> list[list[_T]]:
        """Turn (removed, added) of each release around; one row where both agree."""
        removed = [side for side, _ in both]
        if all(pair.symmetric for pair in self.pairs):
            return [removed]
        return [removed, [side for _, side in both]]


def _interval(
    pairs: Sequence[Laws],
    counts: Sequence[int],
    tail: float,
    side: int,
) -> float:
    """Return the interval that the laws ask for, in nats.

    A loss l between two grid points that are h apart gains a variance of at most
    min(h^2 / 4, |l| h): the largest h that keeps the sum of these below its share of
    the total variance, or, where that takes too many points, the least that does not.
    """
    variance = size = width = 0.0
    for pair, count in zip(pairs, counts, strict=True):
        losses, log_weights = pair.nodes(tail)[side]
        weights = np.exp(log_weights)
        size += count * float(weights @ np.abs(losses))
        variance += count * float(weights @ (losses - weights @ losses) ** 2)
        width = max(width, float(np.ptp(losses)))
    allowed = _EXTRA_VARIANCE * variance
    wanted = max(math.sqrt(4 * allowed / sum(counts)), allowed / size)
    return max(wanted, width / _LAW_POINTS)
