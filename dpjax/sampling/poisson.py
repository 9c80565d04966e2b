"""Poisson sampling: every example by a throw of its own."""

import dataclasses
import math
from collections.abc import Callable

import dp_accounting
import numpy as np
from dp_accounting import NeighboringRelation

from dpjax import _check
from dpjax.sampling import streams
from dpjax.sampling.sampler import Sampler, fitting


@dataclasses.dataclass(frozen=True)
class Poisson(Sampler):
    """Each example enters each step independently, with the same probability.

    The probability is q = expected_batch_size / num_examples; the batch size may be a
    fraction. A draw may be empty: that is a legal step (one chunk, all masked). Time
    and memory follow the batch, not the data set. Indices ascend within a step.

    Guarantee:
      Neighbours differ by one example: added or removed, or replaced. `num_steps` sums
      with Gaussian noise spend `SelfComposed(PoissonSampled(q, Gaussian), num_steps)`.
      Assumed: the key is secret and uniformly drawn, and which examples were drawn (the
      number of chunks of a step, too) is not released.
    """

    relation = NeighboringRelation.ADD_OR_REMOVE_ONE
    is_poisson = True
    statement = (
        "Poisson sampling: each example enters each step independently, with "
        "probability expected_batch_size / num_examples. The accounting counts on this "
        "amplification."
    )

    def sampling_prob(self, *, num_examples: int, expected_batch_size: float) -> float:
        """Return q = expected_batch_size / num_examples, in (0, 1]."""
        return poisson_rate(num_examples, expected_batch_size)

    def chunk_size(self, *, num_examples: int, expected_batch_size: float) -> int:
        """Return `default_chunk_size`."""
        return default_chunk_size(num_examples, expected_batch_size)

    def _step_event(
        self,
        gaussian: dp_accounting.GaussianDpEvent,
        count: int,
        batch: float,
        relation: NeighboringRelation,
    ) -> dp_accounting.DpEvent:
        del relation
        return dp_accounting.PoissonSampledDpEvent(float(batch) / count, gaussian)

    def _draws(
        self, words: np.ndarray, count: int, batch: float
    ) -> Callable[[int], np.ndarray]:
        q = float(batch) / count
        return lambda step: streams.heads(
            streams.stream(words, b"poisson", step), count, q
        )


@dataclasses.dataclass(frozen=True)
class TruncatedPoisson(Sampler):
    """Poisson sampling, of which at most `max_batch_size` examples are kept.

    For a device on which a batch has one static size. Where more are drawn, all but
    `max_batch_size` of them are left out, at random. Where that hardly ever happens it
    costs nothing: at six standard deviations above the mean, or more.

    Guarantee:
      Neighbours differ by one example: added or removed, or replaced. `num_steps` sums
      with Gaussian noise spend `SelfComposed(TruncatedSubsampledGaussian, num_steps)`.
      Assumed: as for `Poisson`.

    Attributes:
      max_batch_size: The most examples in a batch, >= 1.

    References:
      Ganesh et al. 2025, arXiv 2508.15089.
    """

    max_batch_size: int

    relation = NeighboringRelation.ADD_OR_REMOVE_ONE
    statement = (
        "Truncated Poisson sampling: each example is drawn for each step "
        "independently, with probability expected_batch_size / num_examples, and of "
        "more than max_batch_size examples that many are kept, at random. The "
        "accounting counts on this amplification, and pays for the truncation."
    )

    def __post_init__(self) -> None:
        size = _check.integer("max_batch_size", self.max_batch_size, minimum=1)
        object.__setattr__(self, "max_batch_size", size)

    def sampling_prob(self, *, num_examples: int, expected_batch_size: float) -> float:
        """Return q = expected_batch_size / num_examples, of being drawn, in (0, 1]."""
        return poisson_rate(num_examples, expected_batch_size)

    def chunk_size(self, *, num_examples: int, expected_batch_size: float) -> int:
        """Return `max_batch_size`: every batch fits into one chunk."""
        self.sampling_prob(
            num_examples=num_examples, expected_batch_size=expected_batch_size
        )
        return min(self.max_batch_size, num_examples)

    def _step_event(
        self,
        gaussian: dp_accounting.GaussianDpEvent,
        count: int,
        batch: float,
        relation: NeighboringRelation,
    ) -> dp_accounting.DpEvent:
        # A neighbour that has one example more is cut a little more often.
        larger = count + (relation == NeighboringRelation.ADD_OR_REMOVE_ONE)
        return dp_accounting.TruncatedSubsampledGaussianDpEvent(
            larger, float(batch) / count, self.max_batch_size, gaussian.noise_multiplier
        )

    def _draws(
        self, words: np.ndarray, count: int, batch: float
    ) -> Callable[[int], np.ndarray]:
        q = float(batch) / count

        def draw(step: int) -> np.ndarray:
            source = streams.stream(words, b"truncated poisson", step)
            drawn = streams.heads(source, count, q)
            if drawn.size <= self.max_batch_size:
                return drawn
            return streams.subset(source, drawn, self.max_batch_size)

        return draw


def poisson_rate(num_examples: int, expected_batch_size: float) -> float:
    """Return expected_batch_size / num_examples, checked."""
    batch = _check.positive("expected_batch_size", expected_batch_size)
    q = batch / fitting(num_examples, batch)
    return _check.probability("expected_batch_size / num_examples", q)


def rate_of_disjoint(
    num_examples: int, expected_batch_size: float, *, number: int, name: str
) -> float:
    """Return `poisson_rate`, where so many batches without an example in common fit.

    Args:
      num_examples: Size of the data set, in examples.
      expected_batch_size: Mean size of a batch, in examples.
      number: How many batches.
      name: What an error calls that.
    """
    rate = poisson_rate(num_examples, expected_batch_size)
    if expected_batch_size * number > num_examples:
        most = f"at most num_examples / expected_batch_size = {1 / rate:g}"
        _check.fail(most, name, number)
    return rate


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
    q = poisson_rate(num_examples, expected_batch_size)
    mean = q * num_examples
    size = math.ceil(mean + 3 * math.sqrt(mean * (1 - q)))
    return min(num_examples, math.ceil(size / 8) * 8)
