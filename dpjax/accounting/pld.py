"""The accountant of privacy loss distributions: an upper bound close to the truth.

Gaussian releases, plain or Poisson sampled, are composed on a grid that is chosen from
the scale of their losses; plain Gaussian releases alone have a closed form. The losses
of other events are those of dp_accounting, on its own fixed grid.
"""

import dataclasses
import math
from collections.abc import Sequence

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

_MOST_STEPS = 10**12

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

    Its `.error` compares with a grid half as fine. The excess of a grid falls with the
    square of its interval, so the true excess is about a third of it.

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
    return Epsilon(value, error=max(0.0, coarse - value), method="pld")


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
    largest = [(part, max(1, *steps) * count) for part, count in parts]
    grid = _Grid.of(largest, delta, relation)
    directions = grid.laws()
    counts = [count for _, count in parts]
    return np.array(
        [grid.composed(directions, [n * c for c in counts], delta) for n in steps]
    )


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Pairs of output laws with their counts, and the grid for their losses."""

    pairs: tuple[privacy_loss.SampledGaussian, ...]
    counts: tuple[int, ...]
    tail: float
    interval: float

    @classmethod
    def of(cls, parts: Parts, delta: float, relation: Relation) -> "_Grid":
        """Choose the coarsest grid that is fine enough for `parts` at `delta`."""
        pairs = tuple(_pair(part, relation) for part, _ in parts)
        counts = tuple(count for _, count in parts)
        total = sum(counts)
        if total > _MOST_STEPS:
            what = f"at most {_MOST_STEPS} compositions, or the RDP accountant"
            _check.fail(what, "count", total, AccountingError)
        tail = max(_TAIL * delta / total, 1e-300)
        return cls(pairs, counts, tail, _interval(pairs, counts, tail))

    def laws(self) -> list[list[privacy_loss.LossLaw]]:
        """Return the laws of all parts, for the directions that can differ."""
        both = [
            privacy_loss.grid_laws(pair, self.interval, self.tail)
            for pair in self.pairs
        ]
        removed = [law for law, _ in both]
        if all(pair.symmetric for pair in self.pairs):
            return [removed]
        return [removed, [law for _, law in both]]

    def composed(
        self,
        directions: list[list[privacy_loss.LossLaw]],
        counts: Sequence[int],
        delta: float,
    ) -> float:
        """Return the larger epsilon of all `directions`."""
        if not any(counts):
            return 0.0
        return max(
            composition.epsilon(laws, counts, interval=self.interval, delta=delta)
            for laws in directions
        )

    def epsilon(self, delta: float) -> float:
        """Return the epsilon of all parts composed."""
        return self.composed(self.laws(), self.counts, delta)


def _interval(
    pairs: Sequence[privacy_loss.SampledGaussian], counts: Sequence[int], tail: float
) -> float:
    """Return the interval of the grid, in nats.

    A loss l between two grid points that are h apart gains a variance of at most
    min(h^2 / 4, |l| h): the largest h that keeps the sum of these below its share of the
    total variance, or, where that takes too many points, the least h that does not.
    """
    variance = mean_square = mean_size = width = 0.0
    for pair, count in zip(pairs, counts, strict=True):
        losses, log_weights = pair.nodes(tail)
        weights = np.exp(log_weights)
        mean_square += count / sum(counts)
        mean_size += count * float(weights @ np.abs(losses))
        variance += count * float(weights @ (losses - weights @ losses) ** 2)
        width = max(width, float(losses[-1] - losses[0]))
    allowed = _EXTRA_VARIANCE * variance
    wanted = max(math.sqrt(4 * allowed / sum(counts)), allowed / mean_size)
    span = 20 * math.sqrt(variance)
    return max(wanted, width / _LAW_POINTS, span / _TOTAL_POINTS)


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
