"""Time functions side by side, in rounds; the standard library is all it needs.

Machines slow down and speed up by tens of per cent from minute to minute. So every
round runs every contestant once, and a ratio is the median of the rounds' own ratios.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping

Call = Callable[[], object]


def seconds(call: Call, repeats: int = 1) -> float:
    """Return the mean time of a call, which returns when its work is done."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def side_by_side(
    calls: Mapping[str, Call],
    rounds: int,
    *,
    turn: float = 0.1,
    budget: float = 6.0,
) -> dict[str, list[float]]:
    """Return the seconds a call of each contestant, one number a round.

    A turn repeats a short call and begins with one that is not timed: it pays for the
    caches that the contestant before has emptied. A contestant that has used up its
    budget sits out the rounds that are left, so its list can be shorter.

    Args:
        calls: Contestants by name, compiled and run before. The first is the measure of
            the others and never sits out.
        rounds: Number of rounds, at least 1.
        turn: Seconds that a turn takes about, if one call is shorter.
        budget: Seconds after which a contestant sits out.
    """
    once = {name: seconds(call) for name, call in calls.items()}
    repeats = {name: max(1, int(turn / once[name])) for name in calls}
    first = next(iter(calls))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            used = sum(times[name]) * repeats[name]
            if name != first and used > budget:
                continue
            if once[name] < 5 * turn:
                call()
            times[name].append(seconds(call, repeats[name]))
    return times


def median_ratio(times: list[float], base: list[float]) -> float:
    """Return the median over the rounds of the ratio of two contestants."""
    return statistics.median(a / b for a, b in zip(times, base, strict=False))


def exponent(sizes: list[int], times: list[float]) -> float:
    """Return p of the fit times = c * sizes^p: the slope between the logarithms.

    >>> round(exponent([1, 2, 4], [3.0, 12.0, 48.0]), 6)
    2.0
    """
    logs = [[math.log2(value) for value in values] for values in (sizes, times)]
    return statistics.linear_regression(*logs).slope
