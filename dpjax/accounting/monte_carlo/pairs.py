r"""Pairs of output laws that can be sampled, and their likelihood ratio.

P is the law of a run with an example, Q that of one without it. Noise has standard
deviation s, in clip norms; what the example adds is at its largest, a clip norm. In
whatever way the queries adapt to the outputs, they then follow from those of the pair.
"""

import dataclasses
import math
from typing import Protocol

import numpy as np
from scipy import special

from dpjax import _check

_LARGEST_LOSS = 650.0
_DEVIATIONS = 12
"""No sample is further away from the middle, in standard deviations."""


class Pair(Protocol):
    """A pair (P, Q)."""

    def log_ratios(
        self, source: np.random.Generator, count: int, with_example: bool
    ) -> np.ndarray:
        """Return log dP/dQ at independent outputs: (count,), in nats.

        Args:
          source: random numbers.
          count: number of outputs.
          with_example: draw them from P instead of Q.
        """


@dataclasses.dataclass(frozen=True)
class Allocated:
    """An example in exactly k of t steps, all sets of which are as likely.

    With k = 1, one epoch of balls in bins.

    Args:
      noise_multiplier: s, above 0.
      num_steps: t, at least 1.
      num_participations: k, from 1 to t.
    """

    noise_multiplier: float
    num_steps: int
    num_participations: int = 1

    def __post_init__(self) -> None:
        noise = _check.positive("noise_multiplier", self.noise_multiplier)
        steps = _check.integer("num_steps", self.num_steps, minimum=1)
        size = _check.integer("num_participations", self.num_participations, minimum=1)
        if size > steps:
            _check.fail(f"at most num_steps={steps}", "num_participations", size)
        if (
            0.5 * size / noise**2 + _DEVIATIONS * math.sqrt(size) / noise
            > _LARGEST_LOSS
        ):
            _check.fail("noise that leaves losses finite", "noise_multiplier", noise)

    def log_ratios(
        self, source: np.random.Generator, count: int, with_example: bool
    ) -> np.ndarray:
        """Return log dP/dQ: see `Pair`.

        It is the mean, over all sets of k steps, of the product of their own ratios
        Y_t. Of the first t + 1 steps, a share j / (t + 1) of all sets of j has the last
        one in it: m_j becomes (1 - j / (t + 1)) m_j + j / (t + 1) Y m_j-1.
        """
        size, noise = self.num_participations, self.noise_multiplier
        means = np.zeros((size + 1, count))
        means[0] = 1.0
        for step in range(self.num_steps):
            # All sets being as likely, the example may be in the first k steps.
            shift = 1.0 if with_example and step < size else 0.0
            x = shift + noise * source.standard_normal(count)
            share = np.minimum(np.arange(1, size + 1) / (step + 1), 1.0)[:, None]
            latest = np.exp((x - 0.5) / noise**2) * means[:-1]
            means[1:] += share * (latest - means[1:])
        return np.log(means[size])


@dataclasses.dataclass(frozen=True)
class ShiftedGaussians:
    """Noise around one of several means, against noise around 0.

    Of correlated noise with strategy matrix C, the means are the sums of the columns of
    C that belong to an example's steps, for each set of steps it may have; C must have
    no negative entry.

    Args:
      noise_multiplier: s, above 0.
      means: (m, n) real numbers; each row is as likely.
    """

    noise_multiplier: float
    means: np.ndarray

    def __post_init__(self) -> None:
        _check.positive("noise_multiplier", self.noise_multiplier)
        means = np.array(self.means, dtype=float)
        if means.ndim != 2 or not means.size or not np.isfinite(means).all():
            _check.fail("a table of finite means", "means", self.means)
        object.__setattr__(self, "means", means)

    def log_ratios(
        self, source: np.random.Generator, count: int, with_example: bool
    ) -> np.ndarray:
        """Return log dP/dQ: see `Pair`."""
        rows, size = self.means.shape
        outputs = self.noise_multiplier * source.standard_normal((count, size))
        if with_example:
            outputs += self.means[source.integers(rows, size=count)]
        products = outputs @ self.means.T - 0.5 * (self.means**2).sum(axis=1)
        exponents = products / self.noise_multiplier**2
        return special.logsumexp(exponents, axis=1) - math.log(rows)


@dataclasses.dataclass(frozen=True)
class Repeated:
    """A pair `count` times over, with random numbers of its own each time.

    Args:
      pair: what is repeated, such as an epoch.
      count: how often, at least 1.
    """

    pair: Pair
    count: int

    def __post_init__(self) -> None:
        _check.integer("count", self.count, minimum=1)

    def log_ratios(
        self, source: np.random.Generator, count: int, with_example: bool
    ) -> np.ndarray:
        """Return log dP/dQ: see `Pair`."""
        total = np.zeros(count)
        for _ in range(self.count):
            total += self.pair.log_ratios(source, count, with_example)
        return total
