"""The number an accountant gives, and the error it raises when it has none."""

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
