"""Batches of fixed size, drawn anew at every step."""

import dataclasses
from collections.abc import Callable

import dp_accounting
import numpy as np
from dp_accounting import NeighboringRelation

from dpjax.sampling import streams
from dpjax.sampling.sampler import WholeBatches, whole_batch


@dataclasses.dataclass(frozen=True)
class FixedSize(WholeBatches):
    """Exactly `expected_batch_size` different examples at every step.

    Every set of that size is as likely as any other. Time and memory follow the batch.
    Indices ascend within a step.

    Guarantee:
      Neighbours differ by one example: replaced (`REPLACE_ONE`), or added or removed
      (the batch is as large, and the others have its place). `num_steps` sums with
      Gaussian noise spend `SelfComposed(SampledWithoutReplacement(N, B, Gaussian),
      num_steps)`. That costs far more than Poisson sampling: an example that is drawn
      takes the place of another, and so moves the sum by up to two clip norms. Assumed:
      the key is secret and uniformly drawn, and who was drawn is not released.

    References:
      Lebeda, Regehr, Kamath and Steinke 2024, arXiv 2405.20769.
    """

    relation = NeighboringRelation.REPLACE_ONE
    statement = (
        "Batches of fixed size: at every step, expected_batch_size different examples, "
        "any as likely as any other. The accounting counts on this amplification, "
        "which is weaker than that of Poisson sampling."
    )

    def sampling_prob(self, *, num_examples: int, expected_batch_size: float) -> float:
        """Return expected_batch_size / num_examples, in (0, 1]."""
        return whole_batch(num_examples, expected_batch_size) / num_examples

    def _step_event(
        self,
        gaussian: dp_accounting.GaussianDpEvent,
        count: int,
        batch: float,
        relation: NeighboringRelation,
    ) -> dp_accounting.DpEvent:
        del relation
        return dp_accounting.SampledWithoutReplacementDpEvent(
            count, int(batch), gaussian
        )

    def _draws(
        self, words: np.ndarray, count: int, batch: float
    ) -> Callable[[int], np.ndarray]:
        return lambda step: streams.distinct(
            streams.stream(words, b"fixed size", step), count, int(batch)
        )


@dataclasses.dataclass(frozen=True)
class FixedSizeWithReplacement(WholeBatches):
    """`expected_batch_size` independent draws of an example at every step.

    An example may come several times in a batch, and counts as often. Time and memory
    follow the batch. Indices ascend within a step.

    Guarantee:
      That of `FixedSize`, with `SampledWithReplacement` events, which cost more.
    """

    relation = NeighboringRelation.REPLACE_ONE
    statement = (
        "Batches of fixed size with replacement: at every step, expected_batch_size "
        "independent draws of an example, so that one may come several times. The "
        "accounting counts on this amplification, which is weaker than that of Poisson "
        "sampling."
    )

    def sampling_prob(self, *, num_examples: int, expected_batch_size: float) -> float:
        """Return the probability of coming in a batch at all, 1 - (1 - 1/N)^B."""
        batch = whole_batch(num_examples, expected_batch_size)
        if num_examples == 1:
            return 1.0
        return float(-np.expm1(batch * np.log1p(-1 / num_examples)))

    def max_copies(self, *, num_examples: int, expected_batch_size: float) -> int:
        """Return the size of a batch: all of it may be one example."""
        return whole_batch(num_examples, expected_batch_size)

    def _step_event(
        self,
        gaussian: dp_accounting.GaussianDpEvent,
        count: int,
        batch: float,
        relation: NeighboringRelation,
    ) -> dp_accounting.DpEvent:
        del relation
        return dp_accounting.SampledWithReplacementDpEvent(count, int(batch), gaussian)

    def _draws(
        self, words: np.ndarray, count: int, batch: float
    ) -> Callable[[int], np.ndarray]:
        def draw(step: int) -> np.ndarray:
            source = streams.stream(words, b"with replacement", step)
            return np.sort(streams.integers(source, count, int(batch)))

        return draw
