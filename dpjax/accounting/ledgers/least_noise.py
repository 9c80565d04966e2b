"""The least noise that a filter still admits: for a run that takes what is left."""

import math
from collections.abc import Callable

from dpjax import _check
from dpjax.accounting.epsilon import AccountingError
from dpjax.accounting.events import Event
from dpjax.accounting.ledgers.filter_file import FilterFile
from dpjax.accounting.ledgers.privacy_filter import PrivacyFilter

_LEAST, _MOST = 2.0**-10, 2.0**40
_PRECISION = 1e-8
"""How close the noise comes to the least, relatively."""

_NOTHING = 1e-4
"""Share of the budget's epsilon that is not worth a run; `_PRECISION` leaves less."""


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
      AccountingError: less than a ten-thousandth of epsilon is left; or no noise of up
        to 2^40 is enough; or the filter has no cost of the event.

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
    least_left = _NOTHING * left.budget.epsilon
    if left.used > left.budget.epsilon - least_left:
        what = f"a filter with {least_left:.2g} of {left.budget} left"
        _check.fail(what, "used", left.used, AccountingError)
    low, high = _LEAST, _MOST
    if not left.admits(make_event(high)):
        what = f"an event that fits into the rest of {left.budget} with enough noise"
        _check.fail(what, "make_event(2**40)", make_event(high), AccountingError)
    if left.admits(make_event(low)):
        return low
    while high > low * (1 + _PRECISION):
        middle = math.sqrt(low * high)
        if left.admits(make_event(middle)):
            high = middle
        else:
            low = middle
    return high
