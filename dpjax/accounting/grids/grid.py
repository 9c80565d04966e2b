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

_WINDOW_POINTS = 2**22
"""Most grid points of a window with less tilt, which is longer."""

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
      coarse: whether that is more than the losses ask for, so that those of the grid
        may add up to something else.
    """

    pairs: tuple[Laws, ...]
    tail: float
    interval: float
    coarse: bool = False

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
        wanted, width = _wanted_interval(pairs, counts, tail, side or 0)
        grid = cls(tuple(pairs), tail, max(wanted, width / _LAW_POINTS))
        windows = grid.windows(counts, delta)
        if side is not None:
            windows = windows[side : side + 1]
        span = max(view.high - view.low for view in windows) / _TOTAL_POINTS
        interval = max(grid.interval, span)
        return dataclasses.replace(grid, interval=interval, coarse=interval > wanted)

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
        self,
        counts: Sequence[int],
        delta: float,
        most_tilt: float = math.inf,
        laws: list[list[privacy_loss.LossLaw]] | None = None,
    ) -> list[window.Window]:
        """Return the window of the composition, for each direction.

        Where the grid is coarse, and its `laws` are given and add up to something else,
        the window is theirs: what is outside of it would wrap around.
        """
        directions = self._directions([pair.nodes(self.tail) for pair in self.pairs])
        views = [
            window.find_window(side, counts, delta, most_tilt) for side in directions
        ]
        if laws is None or not self.coarse:
            return views
        for index, side in enumerate(laws):
            own = [self._nodes(law) for law in side]
            view = views[index]
            if not window.agree(directions[index], own, counts, view):
                views[index] = window.find_window(own, counts, delta, most_tilt)
        return views

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
        views = self.windows(counts, delta, laws=laws)
        for index, view in enumerate(views):
            # Adding often costs so much less than removing that a bound tells.
            if view.bound > 0.99 * largest:
                value = self._of_side(index, laws, view, counts, delta)
                largest = max(largest, value)
        return largest

    def _of_side(
        self,
        index: int,
        laws: list[list[privacy_loss.LossLaw]],
        view: window.Window,
        counts: Sequence[int],
        delta: float,
    ) -> float:
        """Return the epsilon of one direction, with less tilt where it is too small.

        A rare large loss may draw the window above what `delta` asks for.
        """
        value = math.inf
        for _ in range(_ROUNDS):
            if self._is_long(view):
                break
            found = composition.epsilon(
                laws[index], counts, view, interval=self.interval, delta=delta
            )
            value = min(value, found)
            if found > view.least or view.least <= 0 or not view.tilt:
                break
            view = self.windows(counts, delta, view.tilt / 4, laws)[index]
        return value

    def _nodes(self, law: privacy_loss.LossLaw) -> privacy_loss.Nodes:
        """Return a law on the grid as a rule; its infinite losses are paid for."""
        places = np.flatnonzero(law.masses)
        losses = self.interval * (law.lowest + places)
        return privacy_loss.Nodes(losses, np.log(law.masses[places]))

    def _is_long(self, view: window.Window) -> bool:
        """Tell whether a window has more points than are worth their time."""
        return view.high - view.low > _WINDOW_POINTS * self.interval

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

        Returns:
          A bound on it: 0, which says nothing, where that takes too many points.
        """
        logs = []
        views = self.windows(counts, delta, laws=laws)
        for index, (side, view) in enumerate(zip(laws, views, strict=True)):
            for _ in range(_ROUNDS):
                if epsilon >= view.least:
                    break
                view = self.windows(counts, delta, view.tilt / 4, laws)[index]
            if self._is_long(view._replace(low=min(view.low, epsilon))):
                return 0.0
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


def _wanted_interval(
    pairs: Sequence[Laws],
    counts: Sequence[int],
    tail: float,
    side: int,
) -> tuple[float, float]:
    """Return the interval that the laws ask for, and their width, in nats.

    A loss l between two grid points that are h apart gains a variance of at most
    min(h^2 / 4, |l| h): the largest h that keeps the sum of these below its share of
    the total variance.
    """
    variance = size = width = 0.0
    for pair, count in zip(pairs, counts, strict=True):
        losses, log_weights = pair.nodes(tail)[side]
        weights = np.exp(log_weights)
        size += count * float(weights @ np.abs(losses))
        variance += count * float(weights @ (losses - weights @ losses) ** 2)
        width = max(width, float(np.ptp(losses)))
    allowed = _EXTRA_VARIANCE * variance
    return max(math.sqrt(4 * allowed / sum(counts)), allowed / size), width
