"""At which steps one example can take part: what sensitivity is taken over."""

import abc
import dataclasses

import numpy as np

from dpjax import _check


@dataclasses.dataclass(frozen=True)
class Participation(abc.ABC):
    """A set of patterns: sets of steps that one example may take part in.

    What is in a pattern's part is allowed too, and neighbours differ in one example,
    which is replaced by one that contributes nothing: the clipped sums of the steps of
    one pattern move by a norm of at most one each, clip norms aside.
    """

    @abc.abstractmethod
    def separation(self, num_steps: int) -> int:
        """Return how many steps any two participations are apart, at least."""

    @abc.abstractmethod
    def count(self, num_steps: int) -> int:
        """Return the most participations of one example in that many steps."""

    @abc.abstractmethod
    def within(self, length: int) -> int:
        """Return the most participations in a number of steps in a row."""

    @abc.abstractmethod
    def best(self, values: np.ndarray) -> float:
        """Return the largest sum of values over a pattern, of some (n,) all >= 0."""

    @abc.abstractmethod
    def best_pairs(self, values: np.ndarray) -> tuple[float, bool]:
        """Bound the sum of values over all pairs of a pattern, of some (n, n) >= 0.

        Returns:
          The bound, and whether it is the largest sum itself.
        """


@dataclasses.dataclass(frozen=True)
class MinSeparation(Participation):
    """Any steps that are at least `steps_apart` apart, at most `max_participations`.

    Attributes:
      steps_apart: b >= 1; 1 allows any steps, 2 no two steps in a row.
      max_participations: k >= 1; None for as many as fit.

    References:
      Choquette-Choo et al. (2023), (Amplified) banded matrix factorization, sections 2
      and 4, algorithms 3 and 4, arXiv 2306.08153.

    >>> MinSeparation(2, max_participations=2).best(np.array([3.0, 4.0, 3.0, 1.0]))
    6.0
    """

    steps_apart: int
    max_participations: int | None = None

    def __post_init__(self) -> None:
        _keep(self, "steps_apart")
        if self.max_participations is not None:
            _keep(self, "max_participations")

    def separation(self, num_steps: int) -> int:
        """Return `steps_apart`; with one participation, all steps."""
        return num_steps if self.count(num_steps) == 1 else self.steps_apart

    def count(self, num_steps: int) -> int:
        """Return as many as fit, at most `max_participations`."""
        return self.within(num_steps)

    def within(self, length: int) -> int:
        """Return as many as fit, at most `max_participations`."""
        fit = -(-length // self.steps_apart)
        most = self.max_participations
        return fit if most is None else min(fit, most)

    def best(self, values: np.ndarray) -> float:
        """Return the largest sum over a pattern, exactly: a dynamic program."""
        return float(self._best_of_rows(np.asarray(values)[None])[0])

    def best_pairs(self, values: np.ndarray) -> tuple[float, bool]:
        """Bound the sum over pairs: each row by a pattern of its own, then the rows."""
        return self.best(self._best_of_rows(values)), len(values) == 1

    def _best_of_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return for each row (rows, n) the largest sum over a pattern."""
        apart, n = self.steps_apart, rows.shape[1]
        # found[:, i] is the most that steps i, i + 1, ... can give so far.
        found = np.zeros((len(rows), n + apart))
        for _ in range(self.count(n)):
            found[:, :n] = rows + found[:, apart:]
            found = np.maximum.accumulate(found[:, ::-1], axis=1)[:, ::-1]
        return found[:, 0]


@dataclasses.dataclass(frozen=True)
class Cyclic(Participation):
    """Steps j, j + period, j + 2 period, ... for one j: a fixed order of epochs.

    Attributes:
      period: b >= 1, steps in an epoch.

    References:
      Choquette-Choo et al. (2023), Multi-epoch matrix factorization mechanisms for
      private machine learning, section 2, arXiv 2211.06530.

    >>> Cyclic(2).best(np.array([3.0, 4.0, 3.0, 1.0]))
    6.0
    """

    period: int

    def __post_init__(self) -> None:
        _keep(self, "period")

    def separation(self, num_steps: int) -> int:
        """Return the period."""
        del num_steps
        return self.period

    def count(self, num_steps: int) -> int:
        """Return the number of epochs begun."""
        return -(-num_steps // self.period)

    def within(self, length: int) -> int:
        """Return the same: each period has one."""
        return self.count(length)

    def best(self, values: np.ndarray) -> float:
        """Return the largest sum over one of the `period` patterns, exactly."""
        return max(float(np.sum(values[pattern])) for pattern in self.patterns(values))

    def best_pairs(self, values: np.ndarray) -> tuple[float, bool]:
        """Return the largest sum over pairs, exactly."""
        patterns = self.patterns(values)
        sums = (float(np.sum(values[np.ix_(p, p)])) for p in patterns)
        return max(sums), True

    def patterns(self, values: np.ndarray) -> list[np.ndarray]:
        """Return the steps of each pattern, for as many steps as there are values."""
        steps = np.arange(len(values))
        return [steps[j :: self.period] for j in range(min(self.period, len(steps)))]


@dataclasses.dataclass(frozen=True)
class OncePerEpoch(Participation):
    """One step of each epoch of `period` steps, any: epochs in orders of their own.

    Attributes:
      period: steps in an epoch, >= 1.

    >>> OncePerEpoch(2).best(np.array([3.0, 4.0, 3.0, 1.0]))
    7.0
    """

    period: int

    def __post_init__(self) -> None:
        _keep(self, "period")

    def separation(self, num_steps: int) -> int:
        """Return 1: the last step of an epoch and the first of the next."""
        return num_steps if self.count(num_steps) == 1 else 1

    def count(self, num_steps: int) -> int:
        """Return the number of epochs begun."""
        return -(-num_steps // self.period)

    def within(self, length: int) -> int:
        """Return how many epochs so many steps can touch."""
        return min(length, 1 + -(-(length - 1) // self.period))

    def best(self, values: np.ndarray) -> float:
        """Return the sum of the best of each epoch."""
        return float(np.sum(np.maximum.reduceat(values, self._starts(values))))

    def best_pairs(self, values: np.ndarray) -> tuple[float, bool]:
        """Bound the sum by the best pair of each two epochs."""
        starts = self._starts(values)
        rows = np.maximum.reduceat(values, starts, axis=0)
        pairs = np.maximum.reduceat(rows, starts, axis=1)
        np.fill_diagonal(pairs, np.maximum.reduceat(np.diagonal(values), starts))
        return float(np.sum(pairs)), len(starts) == 1

    def _starts(self, values: np.ndarray) -> np.ndarray:
        return np.arange(0, len(values), self.period)


def _keep(participation: Participation, name: str) -> None:
    value = _check.integer(name, getattr(participation, name), minimum=1)
    object.__setattr__(participation, name, value)


ONCE = MinSeparation(1, max_participations=1)
"""One participation, at any step."""
