"""Numbers as text, for terminals: a bound is rounded up, never down."""

import decimal
import math


def number_up(value: float, digits: int = 4) -> str:
    """Return a bound to `digits` significant digits, rounded up.

    >>> number_up(2.71901), number_up(0.0), number_up(1.2e-7), number_up(math.inf)
    ('2.720', '0', '1.200e-7', 'infinite')
    """
    if math.isinf(value):
        return "infinite"
    if value == 0:
        return "0"
    exact = decimal.Decimal(float(value))
    unit = decimal.Decimal((0, (1,), exact.adjusted() - digits + 1))
    rounded = exact.quantize(unit, rounding=decimal.ROUND_CEILING)
    if 1e-3 <= rounded < 10**digits:
        return f"{rounded:.{max(0, digits - 1 - rounded.adjusted())}f}"
    mantissa, exponent = f"{rounded:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"
