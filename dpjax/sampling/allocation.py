"""So many random steps of a cycle for each example, and no others."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import dp_accounting
import numpy as np
from dp_accounting import NeighboringRelation

from dpjax import _check
from dpjax._events import RandomAllocationDpEvent
from dpjax.sampling import streams
from dpjax.sampling.poisson import default_chunk_size, poisson_rate
from dpjax.sampling.sampler import Sampler

_BLOCK = 2**16
"""Examples allocated at a time."""

_HELD = 2**23
"""About the most participations that are kept; of more, the cycle is drawn again."""


class _Allocated(Sampler):
    """Each example in a random set of the steps of a cycle; a cycle after another."""

    relation = NeighboringRelation.ADD_OR_REMOVE_ONE
    total_participations: int

    def cycle_length(self, *, num_examples: int, expected_batch_size: float) -> int:
        """Return t = ceil(total_participations * num_examples / expected_batch_size).

        An integer but for rounding counts as that integer.
        """
        rate = poisson_rate(num_examples, expected_batch_size)
        return math.ceil(self.total_participations / rate * (1 - 1e-12))

    def sampling_prob(self, *, num_examples: int, expected_batch_size: float) -> float:
        """Return the share of a cycle's steps that an example is in, in (0, 1]."""
        return self.total_participations / self.cycle_length(
            num_examples=num_examples, expected_batch_size=expected_batch_size
        )

    def chunk_size(self, *, num_examples: int, expected_batch_size: float) -> int:
        """Return `default_chunk_size`: the size of a batch is binomial."""
        q = self.sampling_prob(
            num_examples=num_examples, expected_batch_size=expected_batch_size
        )
        return default_chunk_size(num_examples, q * num_examples)

    def _participations(self, count: int, batch: float, num_steps: int) -> int:
        """Return the number of cycles begun."""
        length = self.cycle_length(num_examples=count, expected_batch_size=batch)
        return math.ceil(num_steps / length)

    def _step_event(
        self,
        gaussian: dp_accounting.GaussianDpEvent,
        count: int,
        batch: float,
        relation: NeighboringRelation,
    ) -> dp_accounting.DpEvent:
        del relation
        length = self.cycle_length(num_examples=count, expected_batch_size=batch)
        return RandomAllocationDpEvent(length, self.total_participations, gaussian)

    def _cycle(self, cycle: int) -> int:
        """Return the index of the draw that a cycle uses."""
        return cycle

    def _draws(
        self, words: np.ndarray, count: int, batch: float
    ) -> Callable[[int], np.ndarray]:
        length = self.cycle_length(num_examples=count, expected_batch_size=batch)
        size = self.total_participations
        purpose = f"allocation {type(self).__name__}".encode()
        window = max(1, _HELD * length // (count * size))

        @functools.lru_cache(maxsize=1)
        def members(index: int, first: int) -> list[np.ndarray]:
            source = streams.stream(words, purpose, index)
            stop = min(first + window, length)
            return _by_step(source, count, length, size, range(first, stop))

        def draw(step: int) -> np.ndarray:
            cycle, place = divmod(step, length)
            first = place - place % window
            return members(self._cycle(cycle), first)[place - first]

        return draw


@dataclasses.dataclass(frozen=True)
class BallsInBins(_Allocated):
    """Each example in one uniformly random step of every epoch, thrown independently.

    An epoch has T = ceil(num_examples / expected_batch_size) steps; the size of a batch
    is binomial, and its mean num_examples / T. Nobody is left out of an epoch, and
    nobody enters it twice. Indices ascend within a step.

    Who is in a step is known once everybody has thrown: time follows the data set, once
    an epoch up to 2^23 examples, and once for each 2^23 of more, which are kept: memory
    stays below 250 MB. Of 1e9 examples that is a pause every 8,000 steps of a thousand.

    Guarantee:
      Neighbours differ by one example: added, removed, or one that contributes nothing
      (`REPLACE_SPECIAL`). T is public. An epoch begun spends `RandomAllocation(T, 1,
      Gaussian)` if each has throws of its own: of the throw, (1/T) sum_t N(e_t, s^2)
      against N(0, s^2) is the worst case, whatever the queries adapt to. With the same
      throws in all E epochs, all of them together spend one such event, of noise
      s / E^(1/2). Under `REPLACE_ONE` nothing is amplified: one Gaussian release an
      epoch. Assumed: as for `Poisson`.

    Attributes:
      redrawn: Whether every epoch throws anew. Otherwise an example's steps lie T
        apart, as correlated noise asks for.

    References:
      Chua et al. 2025, "Balls-and-Bins sampling for DP-SGD", arXiv 2412.16802;
      Choquette-Choo et al. 2025, "Near exact privacy amplification for matrix
      mechanisms", arXiv 2410.06266, for throws that are kept.
    """

    redrawn: bool = True

    total_participations = 1
    statement = (
        "Balls in bins: each example enters exactly one step of each epoch, any as "
        "likely as any other, independently of the other examples. The accounting "
        "counts on this amplification."
    )

    def __post_init__(self) -> None:
        if not isinstance(self.redrawn, bool):
            _check.fail("True or False", "redrawn", self.redrawn, TypeError)

    def _cycle(self, cycle: int) -> int:
        return cycle if self.redrawn else 0

    def event(self, **settings: Any) -> dp_accounting.DpEvent:
        """Return what `num_steps` steps spend; see `Sampler.event`."""
        spent = super().event(**settings)
        if self.redrawn or isinstance(spent, dp_accounting.NoOpDpEvent):
            return spent
        # The sum over the epochs tells all there is to know of the one throw.
        noise = spent.event.event.noise_multiplier / math.sqrt(spent.count)
        step = RandomAllocationDpEvent(
            spent.event.num_steps, 1, dp_accounting.GaussianDpEvent(noise)
        )
        return dp_accounting.SelfComposedDpEvent(step, 1)


@dataclasses.dataclass(frozen=True)
class RandomAllocation(_Allocated):
    """Each example in exactly `total_participations` random steps of every cycle.

    A cycle has t = ceil(total_participations * num_examples / expected_batch_size)
    steps, and every set of k = total_participations of them is as likely as any other,
    independently for each example. To be in exactly k steps of a run, let it have t
    steps. With k = 1, a cycle is an epoch: `BallsInBins`, whose time and memory it has
    with k times as many examples, and k times that time. Indices ascend within a step.

    Guarantee:
      That of `BallsInBins`; a cycle begun spends `RandomAllocation(t, k, Gaussian)`.

    Attributes:
      total_participations: k, the steps of a cycle that an example is in, >= 1.

    References:
      Feldman and Shenfeld 2025, "Privacy amplification by random allocation", arXiv
      2502.08202.
    """

    total_participations: int

    statement = (
        "Random allocation: each example enters exactly total_participations steps of "
        "each cycle, any as likely as any other, independently of the other examples. "
        "The accounting counts on this amplification."
    )

    def __post_init__(self) -> None:
        k = _check.integer("total_participations", self.total_participations, minimum=1)
        object.__setattr__(self, "total_participations", k)


def _by_step(
    source: np.random.Philox, count: int, length: int, size: int, kept: range
) -> list[np.ndarray]:
    """Return, for each of the `kept` of `length` steps, who has it among its `size`."""
    found, steps = [], []
    for start in range(0, count, _BLOCK):
        rows = min(_BLOCK, count - start)
        drawn = streams.subsets(source, rows, length, size).ravel()
        places = np.flatnonzero((drawn >= kept.start) & (drawn < kept.stop))
        found.append((start + places // size).astype(np.int32))
        steps.append(drawn[places] - np.int32(kept.start))
    members, step = np.concatenate(found), np.concatenate(steps)
    ends = np.cumsum(np.bincount(step, minlength=len(kept)))[:-1]
    return np.split(members[np.argsort(step, kind="stable")], ends)
