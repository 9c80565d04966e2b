"""Poisson sampling with a rest after every step that an example is in."""

import dataclasses
from collections.abc import Callable

import dp_accounting
import numpy as np
from dp_accounting import NeighboringRelation

from dpjax import _check
from dpjax.sampling import streams
from dpjax.sampling.poisson import default_chunk_size, rate_of_disjoint
from dpjax.sampling.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class BMinSep(Sampler):
    """Poisson sampling in which an example rests for b - 1 steps after each of its own.

    At every step, each example that was in none of the last b - 1 = `min_separation` -
    1 ones enters it independently with probability p = q / (1 - (b - 1) q), where q =
    expected_batch_size / num_examples. The first steps go on from a past that never
    was, drawn from the stationary law of such throws, so that every step has
    num_examples * q examples in the mean (a warm start).

    It is meant for correlated noise of b bands. With independent noise it costs little
    less than `Poisson`, and what is stated below is more.

    Who rests depends on all earlier steps: going on at a step repeats the draws before
    it, which costs about their examples. Memory follows `min_separation` batches: those
    who rest are kept. Indices ascend within a step.

    Guarantee:
      Neighbours differ by one example: added, removed, or one that contributes nothing
      (`REPLACE_SPECIAL`). Whatever was seen of the steps before, an example enters a
      step with probability at most p: `num_steps` sums with Gaussian noise spend no
      more than `SelfComposed(PoissonSampled(p, Gaussian), num_steps)`. That is a bound
      and not tight: `accounting.monte_carlo.Separated` is the pair of laws of which
      `monte_carlo.delta` estimates the truth. Nothing is stated under `REPLACE_ONE`.
      Assumed: as for `Poisson`.

    Attributes:
      min_separation: b >= 1, the least distance of two steps that an example is in; at
        most num_examples / expected_batch_size. With 1, it is Poisson sampling.

    References:
      "Privacy amplification for BandMF via b-min-sep subsampling", arXiv 2602.09338.
    """

    min_separation: int

    relation = NeighboringRelation.ADD_OR_REMOVE_ONE
    is_poisson = True
    statement = (
        "b-min-sep sampling: each example that was in none of the last "
        "min_separation - 1 steps enters a step independently, all with the same "
        "probability. The accounting counts on that probability, and not on the rest."
    )

    def __post_init__(self) -> None:
        b = _check.integer("min_separation", self.min_separation, minimum=1)
        object.__setattr__(self, "min_separation", b)

    def sampling_prob(self, *, num_examples: int, expected_batch_size: float) -> float:
        """Return p, with which an example enters that does not rest, in (0, 1]."""
        rate = rate_of_disjoint(
            num_examples,
            expected_batch_size,
            number=self.min_separation,
            name="min_separation",
        )
        return min(1.0, rate / (1 - (self.min_separation - 1) * rate))

    def chunk_size(self, *, num_examples: int, expected_batch_size: float) -> int:
        """Return `default_chunk_size`: the size of a batch is binomial."""
        self.sampling_prob(
            num_examples=num_examples, expected_batch_size=expected_batch_size
        )
        return default_chunk_size(num_examples, expected_batch_size)

    def _step_event(
        self,
        gaussian: dp_accounting.GaussianDpEvent,
        count: int,
        batch: float,
        relation: NeighboringRelation,
    ) -> dp_accounting.DpEvent:
        del relation
        p = self.sampling_prob(num_examples=count, expected_batch_size=batch)
        return dp_accounting.PoissonSampledDpEvent(p, gaussian)

    def _draws(
        self, words: np.ndarray, count: int, batch: float
    ) -> Callable[[int], np.ndarray]:
        p = self.sampling_prob(num_examples=count, expected_batch_size=batch)
        run = _Run(words, count, p, self.min_separation)
        return run.draw


class _Run:
    """The steps of a run in their order, repeated from the first one if need be."""

    def __init__(self, words: np.ndarray, count: int, p: float, rest: int) -> None:
        self._words, self._count, self._p, self._rest = words, count, p, rest
        self._next = 0
        self._who, self._free = self._at_start()

    def draw(self, step: int) -> np.ndarray:
        """Return who enters a step."""
        if step < self._next:
            self._next = 0
            self._who, self._free = self._at_start()
        while True:
            drawn = self._advance()
            if self._next > step:
                return drawn

    def _advance(self) -> np.ndarray:
        """Return who enters the next step, and let them rest."""
        source = streams.stream(self._words, b"b-min-sep", self._next)
        thrown = streams.heads(source, self._count, self._p)
        resting = self._free > self._next
        self._who, self._free = self._who[resting], self._free[resting]
        places = np.searchsorted(self._who, thrown)
        rested = np.append(self._who, -1)[places] != thrown
        drawn, places = thrown[rested], places[rested]
        self._next += 1
        self._who = np.insert(self._who, places, drawn)
        self._free = np.insert(self._free, places, self._next + self._rest - 1)
        return drawn

    def _at_start(self) -> tuple[np.ndarray, np.ndarray]:
        """Return who rests at the first step, ascending, and the step they are free at.

        At a random time, the next step of the stationary process without a rest is due
        in j = 1, ..., b - 1 steps with probability q = p / (1 + (b - 1) p) each.
        """
        resting = (self._rest - 1) * self._p / (1 + (self._rest - 1) * self._p)
        if not resting:
            return np.empty(0, np.int32), np.empty(0, np.int32)
        source = streams.stream(self._words, b"b-min-sep start", 0)
        who = streams.heads(source, self._count, resting)
        return who, 1 + streams.integers(source, self._rest - 1, who.size)
