"""Which examples enter which step, on the host, and what that is worth in privacy.

A sampler draws the batches *and* states their accounting event, so that the two cannot
disagree. Step t's draw is a pure function of (key, t), made with the counter-based
generator Philox4x64-10, keyed by SHA-256 of the key words, a domain and t. Only its raw
words are used, which NumPy promises to keep the same in all its versions.

Batches have a static shape: a step is a list of chunks of `chunk_size` indices, padded
under a mask. What does not fit into one chunk goes into further ones: nothing is lost.
"""

import abc
import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import dp_accounting
import numpy as np

from dpjax import _check

_DOMAIN = b"dpjax.sampling"
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
      relation: The neighbouring relation for which `event` holds.
      statement: What is drawn and how it is accounted for, in plain words.
    """

    relation: ClassVar[dp_accounting.NeighboringRelation]
    statement: ClassVar[str]

    @abc.abstractmethod
    def sampling_prob(
        self, *, num_examples: int, expected_batch_size: float
    ) -> float | None:
        """Return the probability that amplifies privacy, None where nothing does."""

    @abc.abstractmethod
    def _participations(self, count: int, batch: float, num_steps: int) -> int:
        """Return in how many steps one example may take part."""

    @abc.abstractmethod
    def _draws(
        self, words: np.ndarray, count: int, batch: float
    ) -> Callable[[int], np.ndarray]:
        """Return the function from a step to the indices that enter it."""

    def event(
        self,
        *,
        noise_multiplier: float,
        num_examples: int,
        expected_batch_size: float,
        num_steps: int,
    ) -> dp_accounting.DpEvent:
        """Return what `num_steps` steps spend.

        `noise_multiplier` is the noise std over the sensitivity to one example, >= 0.
        """
        step = dp_accounting.GaussianDpEvent(
            _check.non_negative("noise_multiplier", noise_multiplier)
        )
        steps = _check.integer("num_steps", num_steps, minimum=0)
        q = self.sampling_prob(
            num_examples=num_examples, expected_batch_size=expected_batch_size
        )
        if q is not None:
            step = dp_accounting.PoissonSampledDpEvent(q, step)
        times = self._participations(num_examples, expected_batch_size, steps)
        if times == 0:
            return dp_accounting.NoOpDpEvent()
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
        words = _words(key_data)
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


@dataclasses.dataclass(frozen=True)
class Poisson(Sampler):
    """Each example enters each step independently, with the same probability.

    The probability is q = expected_batch_size / num_examples; the batch size may be a
    fraction. A draw may be empty: that is a legal step (one chunk, all masked). Time
    and memory follow the batch, not the data set. Indices ascend within a step.

    Guarantee:
      Neighbours differ by the addition or removal of one example. `num_steps` sums with
      Gaussian noise spend `SelfComposed(PoissonSampled(q, Gaussian), num_steps)`.
      Assumed: the key is secret and uniformly drawn, and which examples were drawn (the
      number of chunks of a step, too) is not released.
    """

    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    statement = (
        "Poisson sampling: each example enters each step independently, with "
        "probability expected_batch_size / num_examples. The accounting counts on this "
        "amplification. Neighbouring data sets differ by one example added or removed."
    )

    def sampling_prob(self, *, num_examples: int, expected_batch_size: float) -> float:
        """Return q = expected_batch_size / num_examples, in (0, 1]."""
        batch = _check.positive("expected_batch_size", expected_batch_size)
        q = batch / _fitting(num_examples, batch)
        return _check.probability("expected_batch_size / num_examples", q)

    def _participations(self, count: int, batch: float, num_steps: int) -> int:
        del count, batch
        return num_steps

    def _draws(
        self, words: np.ndarray, count: int, batch: float
    ) -> Callable[[int], np.ndarray]:
        q = float(batch) / count
        return lambda step: _heads(_stream(words, b"poisson", step), count, q)


@dataclasses.dataclass(frozen=True)
class ShuffledEpochs(Sampler):
    """Every example once an epoch, in batches of fixed size; a new order each epoch.

    An epoch has ceil(num_examples / expected_batch_size) steps, the last of them short
    where the division leaves a rest. `expected_batch_size` is an integer here.

    Guarantee:
      Neighbours differ by one example, which takes part or is zeroed out
      (`REPLACE_SPECIAL`): the number of examples is public. An example takes part in
      one step an epoch, so `num_steps` steps spend one Gaussian event for each epoch
      begun: as deterministic batches, in whatever order, without amplification. That is
      all that shuffling can be trusted with (Chua et al. 2024).

    References:
      Chua et al. 2024, "How private are DP-SGD implementations?", arXiv 2403.17673.
    """

    relation = dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    statement = (
        "Shuffled epochs: every example enters exactly one step of each epoch, in "
        "batches of fixed size. Accounted for as deterministic batches, without "
        "amplification. Neighbouring data sets differ by zeroing out one example."
    )

    def sampling_prob(self, *, num_examples: int, expected_batch_size: float) -> None:
        """Return None: shuffling is not counted as amplification."""
        batch = _check.integer("expected_batch_size", expected_batch_size, minimum=1)
        _fitting(num_examples, batch)

    def _participations(self, count: int, batch: float, num_steps: int) -> int:
        return math.ceil(num_steps / math.ceil(count / batch))

    def _draws(
        self, words: np.ndarray, count: int, batch: float
    ) -> Callable[[int], np.ndarray]:
        @functools.lru_cache(maxsize=1)
        def order(epoch: int) -> np.ndarray:
            tickets = _stream(words, b"shuffle", epoch).random_raw(count)
            return np.argsort(tickets, kind="stable").astype(np.int32)

        def draw(step: int) -> np.ndarray:
            epoch, place = divmod(step, math.ceil(count / batch))
            return order(epoch)[place * int(batch) : (place + 1) * int(batch)]

        return draw


def default_chunk_size(num_examples: int, expected_batch_size: float) -> int:
    """Return a chunk size for `Poisson` that wastes few slots and few chunks.

    The size of a draw is Binomial(num_examples, q). Its mean plus three standard
    deviations holds more than 99 % of the draws in one chunk and pads little:
    chunk_size * E[number of chunks] is near its least among the sizes that take a
    typical draw whole. Smaller chunks pad less, but each is paid for with a dispatch.

    Args:
      num_examples: Size of the data set, in examples.
      expected_batch_size: Mean size of a draw, in examples; at most `num_examples`.

    Returns:
      The size, rounded up to a multiple of 8 and at most `num_examples`.

    Raises:
      TypeError: An argument that is no number.
      ValueError: An argument out of range.

    >>> default_chunk_size(60_000, 1_000)
    1096
    """
    q = Poisson().sampling_prob(
        num_examples=num_examples, expected_batch_size=expected_batch_size
    )
    mean = q * num_examples
    size = math.ceil(mean + 3 * math.sqrt(mean * (1 - q)))
    return min(num_examples, math.ceil(size / 8) * 8)


def _fitting(num_examples: Any, batch: float) -> int:
    """Return the checked size of a data set, which holds the batch."""
    count = _check.integer("num_examples", num_examples, minimum=1)
    if count > _MAX_EXAMPLES:
        _check.fail("at most 2**31 - 1 examples", "num_examples", count)
    if batch > count:
        _check.fail(f"at most num_examples={count}", "expected_batch_size", batch)
    return count


def _words(key_data: Any) -> np.ndarray:
    """Return checked key words, copied to the host."""
    words = np.array(key_data)
    if words.dtype != np.uint32:
        _check.fail("uint32 key data", "key_data.dtype", str(words.dtype), TypeError)
    if words.shape != (2,):
        _check.fail("key data of shape (2,)", "key_data.shape", words.shape)
    return words


def _stream(words: np.ndarray, purpose: bytes, index: int) -> np.random.Philox:
    """Return the generator that belongs to a key, a purpose and a step or epoch."""
    parts = _DOMAIN, purpose, words.astype("<u4").tobytes(), index.to_bytes(8, "little")
    digest = hashlib.sha256(b"\0".join(parts)).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"))


def _heads(stream: np.random.Philox, count: int, q: float) -> np.ndarray:
    """Return which of `count` independent coins of probability q show heads.

    The gap to the next head is geometric, P(gap > k) = (1 - q)^k, drawn by inversion of
    a uniform number in (0, 1]: work and memory follow the heads, not the coins.
    """
    if q == 1:
        return np.arange(count, dtype=np.int32)
    block = math.ceil(count * q + 4 * math.sqrt(count * q)) + 8
    found, last = [], -1
    while last < count - 1:
        uniform = ((stream.random_raw(block) >> 11) + 1) * 2.0**-53
        gaps = 1 + np.minimum(np.log(uniform) / math.log1p(-q), count)
        heads = last + np.cumsum(gaps.astype(np.int64))
        found.append(heads[heads < count].astype(np.int32))
        last = int(heads[-1])
    return np.concatenate(found)


def _chunks(indices: np.ndarray, chunk_size: int) -> list[IndexChunk]:
    """Return all indices, in as many padded chunks as they need; at least one."""
    count = max(1, math.ceil(len(indices) / chunk_size))
    padded = np.zeros((count, chunk_size), np.int32)
    padded.flat[: len(indices)] = indices
    mask = np.arange(padded.size).reshape(padded.shape) < len(indices)
    return list(map(IndexChunk, padded, mask))
