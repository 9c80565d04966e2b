"""What an audit finds: an epsilon that the mechanism has at least."""

import math
from typing import Self

from dpjax import _check


class LowerBound(float):
    """An epsilon, in nats, below which the mechanism's is not, at some confidence.

    Attributes:
      delta: at which.
      significance: the probability, at most, that the bound is above the true epsilon.
      method: what the bound rests on.

    Example:
      >>> bound = LowerBound(1.5, delta=1e-5, significance=0.05, method="dp")
      >>> f"{bound:.1f} {bound.significance}"
      '1.5 0.05'
    """

    delta: float
    significance: float
    method: str

    def __new__(
        cls, value: float, *, delta: float, significance: float, method: str
    ) -> Self:
        """Make a bound; one below zero says nothing, and is zero."""
        bound = super().__new__(cls, max(0.0, value))
        bound.delta, bound.significance, bound.method = delta, significance, method
        return bound

    def __getnewargs_ex__(self) -> tuple[tuple[float], dict[str, object]]:
        """Return what copies and pickles are made of."""
        kept = {
            "delta": self.delta,
            "significance": self.significance,
            "method": self.method,
        }
        return (float(self),), kept


def checked_delta(delta: float) -> float:
    """Return `delta`, in [0, 1)."""
    number = _check.probability("delta", delta) if delta else 0.0
    if number >= 1:
        _check.fail("a number in [0, 1)", "delta", delta)
    return number


def log_ratio(numerator: float, denominator: float) -> float:
    """Return log(numerator / denominator), minus infinity where there is none."""
    if numerator <= 0:
        return -math.inf
    return math.inf if denominator <= 0 else math.log(numerator / denominator)
