"""Poisson sampling within groups that take turns."""

import dataclasses
import math
from collections.abc import Callable

import dp_accounting
import numpy as np
from dp_accounting import NeighboringRelation

from dpjax import _check
from dpjax.sampling import streams
from dpjax.sampling.poisson import default_chunk_size, rate_of_disjoint
from dpjax.sampling.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class CyclicPoisson(Sampler):
    """Poisson sampling within `period` groups of examples, which take turns.

    The example at position i belongs to group i mod period, and step t draws from group
    t mod period, each example with probability q = period * expected_batch_size /
    num_examples. Between two steps that an example can be in lie `period` - 1 others,
    which is what correlated noise asks for. Time and memory follow the batch.

    Guarantee:
      Neighbours differ by one example, which is replaced, by one that contributes
      nothing (`REPLACE_SPECIAL`) or by any other: the number of examples, and so who is
      in which group, is public. An example can be in at most ceil(num_steps / period)
      steps, which spend `PoissonSampled(q, Gaussian)` each. Assumed: as for `Poisson`.

    Attributes:
      period: Number of groups, >= 1, at most num_examples / expected_batch_size.
    """

    period: int

    relation = NeighboringRelation.REPLACE_SPECIAL
    is_poisson = True
    statement = (
        "Cyclic Poisson sampling: the examples are divided into groups by their "
        "position, and the groups take turns. Each example of a step's group enters it "
        "independently, with the probability that makes expected_batch_size. The "
        "accounting counts on this amplification."
    )

    def __post_init__(self) -> None:
        period = _check.integer("period", self.period, minimum=1)
        object.__setattr__(self, "period", period)

    def sampling_prob(self, *, num_examples: int, expected_batch_size: float) -> float:
        """Return q, with which an example of a step's group enters it, in (0, 1]."""
        rate = rate_of_disjoint(
            num_examples, expected_batch_size, number=self.period, name="period"
        )
        return min(1.0, rate * self.period)

    def chunk_size(self, *, num_examples: int, expected_batch_size: float) -> int:
        """Return a size for a group as `default_chunk_size` does for all examples."""
        q = self.sampling_prob(
            num_examples=num_examples, expected_batch_size=expected_batch_size
        )
        largest = math.ceil(num_examples / self.period)
        return default_chunk_size(largest, q * largest)

    def _participations(self, count: int, batch: float, num_steps: int) -> int:
        del count, batch
        return math.ceil(num_steps / self.period)

    def _step_event(
        self,
        gaussian: dp_accounting.GaussianDpEvent,
        count: int,
        batch: float,
        relation: NeighboringRelation,
    ) -> dp_accounting.DpEvent:
        del relation
        q = self.sampling_prob(num_examples=count, expected_batch_size=batch)
        return dp_accounting.PoissonSampledDpEvent(q, gaussian)

    def _draws(
        self, words: np.ndarray, count: int, batch: float
    ) -> Callable[[int], np.ndarray]:
        q = self.sampling_prob(num_examples=count, expected_batch_size=batch)

        def draw(step: int) -> np.ndarray:
            group = step % self.period
            size = math.ceil((count - group) / self.period)
            source = streams.stream(words, b"cyclic poisson", step)
            places = streams.heads(source, size, q)
            return group + np.int32(self.period) * places

        return draw
