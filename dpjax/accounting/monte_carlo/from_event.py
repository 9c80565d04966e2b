"""The pair of output laws of an event."""

import dataclasses

import dp_accounting
import numpy as np

from dpjax import _check
from dpjax._events import RandomAllocationDpEvent
from dpjax.accounting import events
from dpjax.accounting.epsilon import AccountingError
from dpjax.accounting.monte_carlo.pairs import Allocated, Pair, Repeated
from dpjax.accounting.monte_carlo.separated import Separated


@dataclasses.dataclass(frozen=True)
class Composed:
    """Several releases, with random numbers of their own.

    Args:
      pairs: the pairs of output laws of each.
    """

    pairs: tuple[Pair, ...]

    def log_ratios(
        self, source: np.random.Generator, count: int, with_example: bool
    ) -> np.ndarray:
        """Return log dP/dQ: see `Pair`."""
        total = np.zeros(count)
        for pair in self.pairs:
            total += pair.log_ratios(source, count, with_example)
        return total


def pair_of(event: dp_accounting.DpEvent) -> Pair:
    """Return the pair of output laws of an event, for `delta` and `epsilon`.

    | released                          | pair                                         |
    | --------------------------------- | -------------------------------------------- |
    | Gaussian, n times                 | `Allocated` in one step of one, less noise   |
    | Poisson-sampled Gaussian, n times | `Separated` by 1, n steps                    |
    | Gaussian, in k of t random steps  | `Allocated`: the truth, and not the bound of |
    |                                   | the accountants where k > 1                  |

    Args:
      event: compositions of these, with noise; neighbours differ by one example that
        is added, removed or contributes nothing.

    Raises:
      AccountingError: something else is released, or nothing, or without noise.

    Example:
      >>> event = dp_accounting.SelfComposedDpEvent(
      ...     RandomAllocationDpEvent(60, 1, dp_accounting.GaussianDpEvent(1.0)), 10
      ... )
      >>> pair_of(event).pairs[0].pair
      Allocated(noise_multiplier=1.0, num_steps=60, num_participations=1)
    """
    parts = events.take_apart(event)
    if not parts:
        _check.fail("an event that releases something", "event", event, AccountingError)
    return Composed(tuple(_pair(part, count) for part, count in parts))


def _pair(part: events.Event, count: int) -> Pair:
    if isinstance(part, dp_accounting.GaussianDpEvent):
        return Repeated(Allocated(part.noise_multiplier, 1), count)
    if isinstance(part, RandomAllocationDpEvent):
        steps, size = part.num_steps, part.num_participations
        return Repeated(Allocated(part.event.noise_multiplier, steps, size), count)
    if not (
        isinstance(part, dp_accounting.PoissonSampledDpEvent)
        and isinstance(part.event, dp_accounting.GaussianDpEvent)
    ):
        what = "Gaussian releases, plain, Poisson sampled or in random steps"
        _check.fail(what, "event", part, AccountingError)
    noise, rate = part.event.noise_multiplier, part.sampling_probability
    return Separated(noise, rate, min_separation=1, num_steps=count)
