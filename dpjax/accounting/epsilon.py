"""The numbers an accountant gives, and the error it raises when it has none."""

import math
from typing import Self


class AccountingError(ValueError):
    """There is no sound number to give: the message says why, and what there is."""


class Epsilon(float):
    """An epsilon in nats: a float that says where it comes from.

    Arithmetic gives plain floats again: a sum of two epsilons has no one method.

    Args:
      value: the epsilon, at least 0; infinite where nothing is promised.
      error: how far above the exact value of the same method `value` may lie, in nats
        (an accountant errs upward); 0 for a closed form, NaN where it is unknown.
      method: the accountant's name.

    Example:
      >>> epsilon = Epsilon(2.7194, error=2e-4, method="pld")
      >>> epsilon, epsilon.error, epsilon.method
      (2.7194, 0.0002, 'pld')
    """

    error: float
    method: str

    def __new__(
        cls, value: float, *, error: float = math.nan, method: str = ""
    ) -> Self:
        """Make the float, and give it its two attributes."""
        self = super().__new__(cls, value)
        self.error = error
        self.method = method
        return self


class Delta(float):
    """A delta: a float that says where it comes from, and how small it really is.

    Args:
      log: its natural logarithm, which also tells deltas apart that no float does.
      error: how far above the exact logarithm `log` may lie; NaN where it is unknown.
      method: the accountant's name.

    Example:
      >>> delta = Delta(-11.5, error=1e-12, method="exact")
      >>> delta, delta.log, delta.method
      (1.013009359863071e-05, -11.5, 'exact')
    """

    log: float
    error: float
    method: str

    def __new__(cls, log: float, *, error: float = math.nan, method: str = "") -> Self:
        """Make the float, and give it its attributes; it is not rounded down to 0."""
        least = math.ulp(0.0) if log > -math.inf else 0.0
        self = super().__new__(cls, max(math.exp(log), least))
        self.log = log
        self.error = error
        self.method = method
        return self
