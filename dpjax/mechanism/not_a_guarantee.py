"""Numbers that are quoted, and that promise nothing."""

from typing import NamedTuple

from dpjax.accounting import Epsilon
from dpjax.accounting.figures import number_up


class NotAGuarantee(NamedTuple):
    """An epsilon that would hold, if something were so that is not.

    It is no number, so that it cannot be taken for one that holds.

    Attributes:
      if_it_were: the epsilon, in nats.
      delta: at which.
      assumption: what is not so.

    Example:
      >>> str(NotAGuarantee(Epsilon(0.47065), 1e-6, "batches were Poisson samples"))
      'epsilon 0.4707 at delta 1e-06 if batches were Poisson samples: not a guarantee'
    """

    if_it_were: Epsilon
    delta: float
    assumption: str

    def __str__(self) -> str:
        """Return it in words."""
        return (
            f"epsilon {number_up(self.if_it_were)} at delta {self.delta:g} if "
            f"{self.assumption}: not a guarantee"
        )
