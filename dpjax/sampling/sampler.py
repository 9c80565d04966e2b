"""What every sampler offers."""

import abc
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import dp_accounting
import numpy as np
from dp_accounting import NeighboringRelation

from dpjax import _check
from dpjax.sampling import streams

_MAX_EXAMPLES = 2**31 - 1


class IndexChunk(NamedTuple):
    """A part of one step's batch.

    Attributes:
      indices: int32, (chunk_size,): positions in the data set; 0 where padded.
      mask: bool, (chunk_size,): False where padded.
    """

    indices: np.ndarray
    mask: np.ndarray


class Sampler(abc.ABC):
    """Draws batches and states what they are worth.

    The arguments of its methods are keyword-only public constants of the run; one out
    of range raises `TypeError` or `ValueError` when the method is called:

      num_examples: Size of the data set, from 1 to 2**31 - 1 examples.
      expected_batch_size: Mean number of examples a step, at most `num_examples`.
      num_steps: Number of steps, >= 0.

    Attributes:
      relation: The neighbouring relation of the guarantee where none is asked for.
      statement: What is drawn and how it is accounted for, in plain words.
      is_poisson: Whether an example enters no step with more than `sampling_prob`, by a
        throw of its own: what the state of an optimizer can count.
    """

    relation: ClassVar[NeighboringRelation]
    statement: ClassVar[str]
    is_poisson: ClassVar[bool] = False

    @abc.abstractmethod
    def sampling_prob(
        self, *, num_examples: int, expected_batch_size: float
    ) -> float | None:
        """Return the probability that amplifies privacy, None where nothing does."""

    @abc.abstractmethod
    def chunk_size(self, *, num_examples: int, expected_batch_size: float) -> int:
        """Return a good number of rows of a chunk."""

    @abc.abstractmethod
    def _step_event(
        self,
        gaussian: dp_accounting.GaussianDpEvent,
        count: int,
        batch: float,
        relation: NeighboringRelation,
    ) -> dp_accounting.DpEvent:
        """Return what a step spends in which an example may take part."""

    @abc.abstractmethod
    def _draws(
        self, words: np.ndarray, count: int, batch: float
    ) -> Callable[[int], np.ndarray]:
        """Return the function from a step to the indices that enter it."""

    def _participations(self, count: int, batch: float, num_steps: int) -> int:
        """Return in how many steps one example may take part."""
        del count, batch
        return num_steps

    def max_copies(self, *, num_examples: int, expected_batch_size: float) -> int:
        """Return how often an example may come in one batch: once, but for a few."""
        self.sampling_prob(
            num_examples=num_examples, expected_batch_size=expected_batch_size
        )
        return 1

    def event(
        self,
        *,
        noise_multiplier: float,
        num_examples: int,
        expected_batch_size: float,
        num_steps: int,
        relation: NeighboringRelation | None = None,
    ) -> dp_accounting.DpEvent:
        """Return what `num_steps` steps spend.

        It is to be accounted for under `relation` (the sampler's own where None), by
        which an accountant knows how far the sum moves. `noise_multiplier` is the noise
        std over the clip norm, >= 0, whatever the relation.
        """
        gaussian = dp_accounting.GaussianDpEvent(
            _check.non_negative("noise_multiplier", noise_multiplier)
        )
        steps = _check.integer("num_steps", num_steps, minimum=0)
        self.sampling_prob(
            num_examples=num_examples, expected_batch_size=expected_batch_size
        )
        times = self._participations(num_examples, expected_batch_size, steps)
        if times == 0:
            return dp_accounting.NoOpDpEvent()
        chosen = self.relation if relation is None else relation
        step = self._step_event(gaussian, num_examples, expected_batch_size, chosen)
        return dp_accounting.SelfComposedDpEvent(step, times)

    def batches(
        self,
        key_data: np.ndarray,
        *,
        num_examples: int,
        expected_batch_size: float,
        num_steps: int,
        chunk_size: int,
        start_step: int = 0,
    ) -> Iterator[list[IndexChunk]]:
        """Yield, for each of the steps `start_step`, ..., `num_steps - 1`, its chunks.

        `key_data` holds the key words, uint32 of shape (2,). Each step has at least one
        chunk, of `chunk_size` >= 1 indices. A run resumed at `start_step`, in
        [0, num_steps], sees exactly what the uninterrupted run would have seen.
        """
        words = streams.checked_words(key_data)
        size = _check.integer("chunk_size", chunk_size, minimum=1)
        stop = _check.integer("num_steps", num_steps, minimum=0)
        start = _check.integer("start_step", start_step, minimum=0)
        if start > stop:
            _check.fail(f"at most num_steps={stop}", "start_step", start)
        self.sampling_prob(
            num_examples=num_examples, expected_batch_size=expected_batch_size
        )
        draw = self._draws(words, num_examples, expected_batch_size)
        return (_chunks(draw(step), size) for step in range(start, stop))


class WholeBatches(Sampler):
    """A sampler whose batches all have the same size, an integer."""

    def chunk_size(self, *, num_examples: int, expected_batch_size: float) -> int:
        """Return the size of a batch."""
        return whole_batch(num_examples, expected_batch_size)


def fitting(num_examples: Any, batch: float) -> int:
    """Return the checked size of a data set, which holds the batch."""
    count = _check.integer("num_examples", num_examples, minimum=1)
    if count > _MAX_EXAMPLES:
        _check.fail("at most 2**31 - 1 examples", "num_examples", count)
    if batch > count:
        _check.fail(f"at most num_examples={count}", "expected_batch_size", batch)
    return count


def whole_batch(num_examples: Any, expected_batch_size: Any) -> int:
    """Return the checked size of a batch that is the same at every step."""
    batch = _check.integer("expected_batch_size", expected_batch_size, minimum=1)
    fitting(num_examples, batch)
    return batch


def _chunks(indices: np.ndarray, chunk_size: int) -> list[IndexChunk]:
    """Return all indices, in as many padded chunks as they need; at least one."""
    count = max(1, math.ceil(len(indices) / chunk_size))
    padded = np.zeros((count, chunk_size), np.int32)
    padded.flat[: len(indices)] = indices
    mask = np.arange(padded.size).reshape(padded.shape) < len(indices)
    return list(map(IndexChunk, padded, mask))
