"""Events that dp_accounting lacks: samplers state them, and accountants read them."""

import dataclasses

import dp_accounting


@dataclasses.dataclass(frozen=True)
class RandomAllocationDpEvent(dp_accounting.DpEvent):  # type: ignore[misc]  # untyped
    """A release in exactly so many of some steps, any of which are as likely as others.

    One example takes part in `num_participations` of `num_steps` steps, in a uniformly
    random set of that size, drawn for this example alone and kept secret. Each of the
    steps is `event`, whether the example takes part or not.

    Attributes:
      num_steps: t, number of steps, at least 1.
      num_participations: k, steps that the example is in, from 1 to t.
      event: what one step releases, about an example that takes part in it.

    References:
      Feldman and Shenfeld (2025), Privacy amplification by random allocation,
      arXiv 2502.08202.
    """

    num_steps: int
    num_participations: int
    event: dp_accounting.DpEvent
