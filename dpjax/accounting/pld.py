"""The accountant of privacy loss distributions: an upper bound close to the truth.

Gaussian releases, plain or Poisson sampled, are composed on a grid that is chosen from
the scale of their losses; plain Gaussian releases alone have a closed form. The losses
of other events are those of dp_accounting, on its own fixed grid.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeVar

import dp_accounting
import numpy as np
from dp_accounting import pld

from dpjax import _check
from dpjax.accounting import composition, privacy_loss
from dpjax.accounting.epsilon import AccountingError, Epsilon
from dpjax.accounting.events import Event, Parts, Relation

_EXTRA_VARIANCE = 1e-4
"""What the grid may add to the variance of the total loss, relatively."""

_LAW_POINTS = 2**18
_TOTAL_POINTS = 2**20
"""Most grid points of one law, and of the composition: a bound on time and memory."""

_TAIL = 1e-6
"""What the grid's ends may add to delta, relatively."""

_MOST_STEPS = 10**10

_T = TypeVar("_T")

_LIBRARY_INTERVAL = 1e-4
_LIBRARY_LEAST_DELTA = 1e-10

_LIBRARY_EVENTS = (
    dp_accounting.LaplaceDpEvent,
    dp_accounting.PoissonSampledDpEvent,
    dp_accounting.TruncatedSubsampledGaussianDpEvent,
    dp_accounting.dp_event.DiscreteLaplaceDpEvent,
    dp_accounting.dp_event.MixtureOfGaussiansDpEvent,
)
"""Events beside the Gaussian ones whose count dp_accounting takes into account."""


def epsilon(parts: Parts, delta: float, relation: Relation) -> Epsilon:
    """Return an upper bound on the epsilon of `parts` at `delta`.

    Its `.error` is the distance to the number of a grid half as fine. As the excess of a
    grid falls with the square of its interval, the true one is about a third of it.

    Args:
      parts: what was released, from `events.take_apart`.
      delta: in (0, 1).
      relation: which data sets are neighbours.

    Raises:
      AccountingError: there is no sound account of a part under `relation`, or no
        sound number at this delta: the message names the accountant that has one.

    References:
      Koskela, Jalko and Honkela (2020), Computing tight differential privacy guarantees
      using FFT; Zhu, Dong and Wang (2022), Optimal accounting of differential privacy
      via characteristic function.
    """
    if not all(_gaussian(part) for part, _ in parts):
        return _library_epsilon(parts, delta, relation)
    if not any(isinstance(p, dp_accounting.PoissonSampledDpEvent) for p, _ in parts):
        return _closed_form(parts, delta, relation)
    grid = _Grid.of(parts, delta, relation)
    value = grid.epsilon(delta)
    coarse = dataclasses.replace(grid, interval=2 * grid.interval).epsilon(delta)
    return Epsilon(value, error=abs(coarse - value), method="pld")


def curve(
    parts: Parts, delta: float, relation: Relation, steps: Sequence[int]
) -> np.ndarray:
    """Return epsilon after each number of `steps`, one step releasing `parts`.

    The laws of one step are put on the grid once, for the largest number of steps.
    """
    sampled = any(isinstance(p, dp_accounting.PoissonSampledDpEvent) for p, _ in parts)
    if not sampled or not all(_gaussian(part) for part, _ in parts):
        epsilons = [
            epsilon([(part, n * count) for part, count in parts], delta, relation)
            if n
            else 0.0
            for n in steps
        ]
        return np.array(epsilons, dtype=float)
    largest = [(part, max(steps) * count) for part, count in parts]
    grid = _Grid.of(largest, delta, relation)
    laws = grid.laws()
    counts = [[number * count for _, count in parts] for number in steps]
    epsilons = [grid.composed(laws, row, delta) if any(row) else 0.0 for row in counts]
    return np.array(epsilons)


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Sampled Gaussian releases with their counts, and the grid for their losses."""

    pairs: tuple[privacy_loss.SampledGaussian, ...]
    counts: tuple[int, ...]
    tail: float
    interval: float

    @classmethod
    def of(cls, parts: Parts, delta: float, relation: Relation) -> "_Grid":
        """Choose the coarsest grid that is fine enough for `parts` at `delta`."""
        pairs = tuple(_pair(part, relation) for part, _ in parts)
        counts = tuple(count for _, count in parts)
        if sum(counts) > _MOST_STEPS:
            what = f"at most {_MOST_STEPS} compositions, or accountant='rdp'"
            _check.fail(what, "count", sum(counts), AccountingError)
        tail = max(_TAIL * delta / sum(counts), 1e-300)
        grid = cls(pairs, counts, tail, math.nan)
        windows = grid.windows(counts, delta)
        span = max(window.high - window.low for window in windows) / _TOTAL_POINTS
        return dataclasses.replace(grid, interval=max(_interval(grid), span))

    def laws(self) -> list[list[privacy_loss.LossLaw]]:
        """Return the laws of all parts on the grid, for each direction."""
        both = [
            privacy_loss.grid_laws(pair, self.interval, self.tail)
            for pair in self.pairs
        ]
        return self._directions(both)

    def windows(
        self, counts: Sequence[int], delta: float
    ) -> list[composition.Window]:
        """Return the window of the parts composed `counts` times, for each direction."""
        directions = self._directions([pair.nodes(self.tail) for pair in self.pairs])
        return [composition.find_window(side, counts, delta) for side in directions]

    def composed(
        self,
        directions: list[list[privacy_loss.LossLaw]],
        counts: Sequence[int],
        delta: float,
    ) -> float:
        """Return the larger epsilon of both directions, given their laws."""
        pairs = zip(self.pairs, counts, strict=True)
        if sum(count * pair.distance for pair, count in pairs) <= delta:
            return 0.0
        largest = 0.0
        sides = zip(directions, self.windows(counts, delta), strict=True)
        for laws, window in sides:
            # Adding often costs so much less than removing that a bound tells.
            if window.bound > 0.99 * largest:
                value = composition.epsilon(
                    laws, counts, window, interval=self.interval, delta=delta
                )
                largest = max(largest, value)
        return largest

    def epsilon(self, delta: float) -> float:
        """Return the epsilon of all parts composed."""
        return self.composed(self.laws(), self.counts, delta)

    def _directions(self, both: Sequence[tuple[_T, _T]]) -> list[list[_T]]:
        """Turn (removed, added) of each part around; one direction where both agree."""
        removed = [side for side, _ in both]
        if all(pair.symmetric for pair in self.pairs):
            return [removed]
        return [removed, [side for _, side in both]]


def _interval(grid: _Grid) -> float:
    """Return the interval of the grid, in nats.

    A loss l between two grid points that are h apart gains a variance of at most
    min(h^2 / 4, |l| h): the largest h that keeps the sum of these below its share of the
    total variance, or, where that takes too many points, the least h that does not.
    """
    variance = size = width = 0.0
    for pair, count in zip(grid.pairs, grid.counts, strict=True):
        losses, log_weights = pair.nodes(grid.tail)[0]
        weights = np.exp(log_weights)
        size += count * float(weights @ np.abs(losses))
        variance += count * float(weights @ (losses - weights @ losses) ** 2)
        width = max(width, float(np.ptp(losses)))
    allowed = _EXTRA_VARIANCE * variance
    wanted = max(math.sqrt(4 * allowed / sum(grid.counts)), allowed / size)
    return max(wanted, width / _LAW_POINTS)


def _gaussian(part: Event) -> bool:
    """Tell whether `part` is a Gaussian release, plain or Poisson sampled."""
    inner = (
        part.event if isinstance(part, dp_accounting.PoissonSampledDpEvent) else part
    )
    return isinstance(inner, dp_accounting.GaussianDpEvent)


def _pair(part: Event, relation: Relation) -> privacy_loss.SampledGaussian:
    replace = relation == Relation.REPLACE_ONE
    if isinstance(part, dp_accounting.PoissonSampledDpEvent):
        noise, rate = part.event.noise_multiplier, part.sampling_probability
        return privacy_loss.SampledGaussian(noise, rate, replace)
    return privacy_loss.SampledGaussian(part.noise_multiplier, 1.0, replace)


def _closed_form(parts: Parts, delta: float, relation: Relation) -> Epsilon:
    """Return the epsilon of plain Gaussian releases (Balle and Wang, 2018)."""
    precision = sum(count / part.noise_multiplier**2 for part, count in parts)
    sensitivity = 2 if relation == Relation.REPLACE_ONE else 1
    noise = 1 / (sensitivity * math.sqrt(precision))
    with np.errstate(divide="ignore"):
        value = dp_accounting.get_epsilon_gaussian(noise, delta)
    return Epsilon(value * (1 + 1e-12) + 1e-12, error=0.0, method="pld")


def _library_epsilon(parts: Parts, delta: float, relation: Relation) -> Epsilon:
    if delta <= _LIBRARY_LEAST_DELTA:
        what = f"a delta > {_LIBRARY_LEAST_DELTA} for such events, or accountant='rdp'"
        _check.fail(what, "delta", delta, AccountingError)
    accountant = pld.PLDAccountant(relation, _LIBRARY_INTERVAL)
    for part, count in parts:
        if not (_gaussian(part) or isinstance(part, _LIBRARY_EVENTS)):
            what = "an event that the PLD accountant can account for"
            _check.fail(what, "event", part, AccountingError)
        try:
            accountant.compose(part, count)
        except (dp_accounting.UnsupportedEventError, NotImplementedError) as error:
            raise AccountingError(
                f"Expected an event that the PLD accountant supports under "
                f"{relation.name}, got event={part!r}: {error}"
            ) from error
    return Epsilon(accountant.get_epsilon(delta), method="pld")
