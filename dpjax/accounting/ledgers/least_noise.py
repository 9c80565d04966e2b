"""The least noise that a filter still admits: for a run that takes what is left."""

import math
from collections.abc import Callable

from dpjax.accounting.events import Event
from dpjax.accounting.ledgers.filter_file import FilterFile
from dpjax.accounting.ledgers.privacy_filter import PrivacyFilter

_LEAST, _MOST = 2.0**-10, 2.0**40
_PRECISION = 1e-8
"""How close the noise comes to the least, relatively."""

_STARVED = 1000.0
"""How much more noise than the whole budget asks for is no noise to train with.

About one over its square of the budget is left then: more than `_PRECISION` leaves.
"""


def calibrate_to_filter(
    make_event: Callable[[float], Event], privacy_filter: PrivacyFilter | FilterFile
) -> float:
    """Return the least noise multiplier with which a filter admits an event.

    Nothing is spent: another program may spend the rest of a `FilterFile` first, and
    `spend` then refuses.

    Args:
      make_event: gives the event of a noise multiplier; more noise must not cost more.
      privacy_filter: what is left is what counts.

    Returns:
      A noise multiplier at most 1e-8, relatively, above the least one; 2^-10 where that
      is admitted.

    Raises:
      BudgetExceeded: not even 1,000 times the noise that the whole budget asks for is
        admitted, or 2^40: next to nothing is left.
      AccountingError: the filter has no cost of the event.

    Guarantee: the filter was asked, and admits the event at the multiplier returned.

    Example:
      >>> import dp_accounting
      >>> from dpjax.accounting import GaussianFilter
      >>> gaussian = GaussianFilter((3.0, 1e-5))
      >>> gaussian.spend(dp_accounting.GaussianDpEvent(2.0), "a first look")
      >>> noise = calibrate_to_filter(dp_accounting.GaussianDpEvent, gaussian)
      >>> round(noise, 3)
      1.935
    """
    left = privacy_filter.snapshot()
    most = _MOST
    if left.entries:
        most = min(_MOST, _STARVED * _least(left.fresh(), make_event, _MOST))
    return _least(left, make_event, most)


def _least(
    left: PrivacyFilter, make_event: Callable[[float], Event], most: float
) -> float:
    """Return the least noise that is admitted, between `_LEAST` and `most`."""
    low, high = _LEAST, most
    if not left.admits(make_event(high)):
        left.spend(make_event(high), f"noise multiplier {high:.6g}")
    if left.admits(make_event(low)):
        return low
    while high > low * (1 + _PRECISION):
        middle = math.sqrt(low * high)
        if left.admits(make_event(middle)):
            high = middle
        else:
            low = middle
    return high
