"""What rounding to a grid adds to a sensitivity, and which grids there are."""

import math
from typing import Any

from dpjax import _check

_USUAL_STEPS = 2.0**10
"""Steps of the usual grid to clip norm / sqrt(size): rounding adds 0.1 % at most."""

_EXACT = 2.0**24
"""Integers up to there are exact in float32."""

_UP = 1 + 2.0**-48
"""More than what float64 may have rounded off here."""


def checked_granularity(value: Any) -> float:
    """Return the step of a grid: a power of two, so that dividing by it is exact.

    Raises:
      ValueError: it is none, or not in [2^-126, 2^126].

    >>> checked_granularity(0.125)
    0.125
    """
    step = _check.positive("granularity", value)
    if math.frexp(step)[0] != 0.5 or not 2.0**-126 <= step <= 2.0**126:
        _check.fail("a power of two in [2**-126, 2**126]", "granularity", value)
    return step


def usual_granularity(sensitivity: float, size: int) -> float:
    """Return the largest power of two with which rounding costs 0.1 % at most.

    >>> usual_granularity(1.0, 10_000) == 2.0**-17
    True
    """
    finest = sensitivity / (_USUAL_STEPS * math.sqrt(size))
    return 2.0 ** math.floor(math.log2(finest))


def rounded_sensitivity(
    sensitivity: float, granularity: float, size: int, *, moved: float = 1.0
) -> float:
    """Return how far, in steps of a grid, integers lie apart when numbers do so.

    Two vectors of d numbers, T = sensitivity / granularity steps apart in L2 norm, are
    rounded to integers, n_i apart in coordinate i. To be n apart after rounding, two
    numbers were at least max(n - 1, 0) apart before, so that n_i^2 <= f(t_i^2), with f
    the polygon through ((n - 1)^2, n^2) for n = 1, 2, ... It is concave, and all n_i^2
    add up to at most d f(T^2 / d). That is at most (T + sqrt(d))^2, and less where
    the grid is coarse. It is reached, in the limit, wherever f has a corner.

    Args:
      sensitivity: > 0, of the numbers.
      granularity: the step of the grid.
      size: d.
      moved: by how much rounding can bring two numbers apart, in steps: 1; or 1/2,
        where one of them is zero.

    Returns:
      L2 sensitivity in steps, not below the exact one for what float64 rounds off.

    >>> round(rounded_sensitivity(1.0, 2.0**-10, 100), 3)
    1034.0
    """
    mean_square = (sensitivity / granularity) ** 2 / size
    corner = math.floor(math.sqrt(mean_square) + moved)
    if corner == 0:
        largest = mean_square / (1 - moved) ** 2
    else:
        slope = (2 * corner + 1) / (2 * (corner - moved) + 1)
        largest = corner**2 + (mean_square - (corner - moved) ** 2) * slope
    return math.sqrt(size * largest) * _UP


def exact_granularity(sensitivity: float, largest_batch: float) -> float:
    """Return the finest grid on which float32 sums of rounded examples are exact.

    >>> exact_granularity(1.0, 1000) == 2.0**-14
    True
    """
    steps = _EXACT / largest_batch - 0.5
    if steps < 1:
        most = f"a batch of at most {_EXACT:.0f} / 1.5 examples"
        _check.fail(most, "expected_batch_size", largest_batch)
    return 2.0 ** math.ceil(math.log2(sensitivity / steps))


def check_exact(granularity: float, sensitivity: float, largest_batch: float) -> None:
    """Raise where float32 sums of rounded examples could be rounded again.

    Each of a batch's values is a whole number of steps, at most T + 1/2; all partial
    sums are, too, and float32 holds those up to 2^24.
    """
    most = largest_batch * (sensitivity / granularity + 0.5)
    if most > _EXACT:
        what = "a grid on which sums of 32 bits are exact, of at least " + repr(
            exact_granularity(sensitivity, largest_batch)
        )
        _check.fail(what, "granularity", granularity)
