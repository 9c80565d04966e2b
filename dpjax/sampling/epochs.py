"""Every example once an epoch: nothing that amplifies privacy."""

import dataclasses
import functools
import math
from collections.abc import Callable

import dp_accounting
import numpy as np
from dp_accounting import NeighboringRelation

from dpjax.sampling import streams
from dpjax.sampling.permutation import Permutation
from dpjax.sampling.sampler import WholeBatches, whole_batch

_TABLE = 2**22
"""The most examples of which an order is kept as a table."""


class _Epochs(WholeBatches):
    """Every example in one step an epoch, of ceil(num_examples / batch) steps."""

    relation = NeighboringRelation.REPLACE_SPECIAL

    def sampling_prob(self, *, num_examples: int, expected_batch_size: float) -> None:
        """Return None: nothing is counted as amplification."""
        whole_batch(num_examples, expected_batch_size)

    def _participations(self, count: int, batch: float, num_steps: int) -> int:
        return math.ceil(num_steps / math.ceil(count / batch))

    def _step_event(
        self,
        gaussian: dp_accounting.GaussianDpEvent,
        count: int,
        batch: float,
        relation: NeighboringRelation,
    ) -> dp_accounting.DpEvent:
        del count, batch, relation
        return gaussian


@dataclasses.dataclass(frozen=True)
class Deterministic(_Epochs):
    """Batches of fixed size in the order of the data set, the same at every epoch.

    An epoch has ceil(num_examples / expected_batch_size) steps, the last of them short
    where the division leaves a rest. `expected_batch_size` is an integer here. Nothing
    is random; time and memory follow the batch.

    Guarantee:
      Neighbours differ by one example, which is replaced, by one that contributes
      nothing (`REPLACE_SPECIAL`) or by any other: the number of examples is public. An
      example takes part in one step an epoch, so `num_steps` steps spend one Gaussian
      event for each epoch begun, whoever knows the batches.
    """

    statement = (
        "Batches in a fixed order: every example enters exactly one step of each "
        "epoch, always the same. Nothing is random, and nothing is amplified."
    )

    def _draws(
        self, words: np.ndarray, count: int, batch: float
    ) -> Callable[[int], np.ndarray]:
        del words
        size = int(batch)

        def draw(step: int) -> np.ndarray:
            start = step % math.ceil(count / size) * size
            return np.arange(start, min(start + size, count), dtype=np.int32)

        return draw


@dataclasses.dataclass(frozen=True)
class ShuffledEpochs(_Epochs):
    """Every example once an epoch, in batches of fixed size; a new order each epoch.

    An epoch has ceil(num_examples / expected_batch_size) steps, the last of them short
    where the division leaves a rest. `expected_batch_size` is an integer here. Up to
    2^22 examples, any order is as likely as any other, and one is kept in memory. Of
    more, the order is a `Permutation` that is computed where it is asked for: time
    follows the batch, memory the square root of the data set (1.5 MB of 2^31 examples).

    Guarantee:
      That of `Deterministic`: as batches in whatever order, without amplification. That
      is all that shuffling can be trusted with (Chua et al. 2024).

    References:
      Chua et al. 2024, "How private are DP-SGD implementations?", arXiv 2403.17673.
    """

    statement = (
        "Shuffled epochs: every example enters exactly one step of each epoch, in "
        "batches of fixed size. Accounted for as deterministic batches, without "
        "amplification."
    )

    def _draws(
        self, words: np.ndarray, count: int, batch: float
    ) -> Callable[[int], np.ndarray]:
        size = int(batch)

        @functools.lru_cache(maxsize=1)
        def order(epoch: int) -> Callable[[np.ndarray], np.ndarray]:
            source = streams.stream(words, b"shuffle", epoch)
            if count > _TABLE:
                return Permutation(source, count)
            tickets = source.random_raw(count)
            return np.argsort(tickets, kind="stable").astype(np.int32).__getitem__

        def draw(step: int) -> np.ndarray:
            epoch, place = divmod(step, math.ceil(count / size))
            start = place * size
            return order(epoch)(np.arange(start, min(start + size, count)))

        return draw
