"""How much more fits into a budget, found with few calls of the accountant.

A loop spends every step, and an accountant takes a fraction of a second: asking it at
every step is out of the question. So it is asked about several steps at once, of the
kinds that were taken before; until these are used up, counting is enough, because
whatever is part of what fits, fits. Where settings move from step to step, it is asked
about a step that costs at least what the next ones will: see `cover`.
"""

import math
from collections.abc import Callable

from dpjax.accounting.events import Event, Parts
from dpjax.accounting.ledgers import cover

_GROWTH = 8
"""How many times what was used up since it was last asked, the accountant is asked for.

That many questions fewer than steps: their number grows with the steps' logarithm.
"""

_MOST = 2**33


class Headroom:
    """What is known to fit into a budget.

    Args:
      cost: `parts -> epsilon` of all that was spent by now, with `parts` on top.
      limit: the most that epsilon may be.
    """

    def __init__(self, cost: Callable[[Parts], float], limit: float) -> None:
        self._cost, self._limit = cost, limit
        self._left: Parts = []
        self._taken: Parts = []

    def take(self, event: Event, count: int) -> float | None:
        """Take `event`, `count` times, if it fits.

        Returns:
          None where it fits; else the epsilon that it would make, and nothing is taken.
        """
        used = self._granted(event, count)
        if used is None:
            refused = self._ask(event, count)
            if refused is not None:
                return refused
            used = event
        self._left = _add(self._left, used, -count)
        self._taken = _add(self._taken, event, count)
        return None

    def _granted(self, event: Event, count: int) -> Event | None:
        """Return what of `_left` may be used up for `event`, or None."""
        if _count(self._left, event) >= count:
            return event
        for part, number in self._left:
            if number >= count and cover.covers(part, event):
                return part
        return None

    def _ask(self, event: Event, count: int) -> float | None:
        """Make `_left` hold `event`, and more of what was taken since the last time."""
        size = sum(number for _, number in self._taken)
        expected = self._expected(event)

        def grants(steps: int) -> Parts:
            parts = [(part, steps * n // size) for part, n in expected if size]
            return _add([part for part in parts if part[1]], event, count)

        def cost(steps: int) -> float:
            return self._cost(grants(steps))

        steps = _GROWTH * size
        most = cost(steps)
        if most > self._limit:
            least = cost(0) if steps else most
            if least > self._limit:
                return least
            steps = largest_within(cost, self._limit, (0, least), (steps, most))
        self._left, self._taken = grants(steps), []
        return None

    def _expected(self, event: Event) -> Parts:
        """Return what the next releases may be like, as many as were taken."""
        taken = [part for part, _ in self._taken]
        near = None if event in taken else cover.around([*taken, event])
        if near is None:
            return self._taken
        return [(near, sum(number for _, number in self._taken))]


def most_within(cost: Callable[[int], float], limit: float) -> int:
    """Return the largest number from 0 to 2^33 with a cost of at most `limit`.

    Args:
      cost: of a number, at least 1; it does not fall.
      limit: the most it may be.
    """
    within, beyond = (0, 0.0), (1, cost(1))
    while beyond[1] <= limit:
        if beyond[0] >= _MOST:
            return _MOST
        number = min(_GROWTH * beyond[0], _MOST)
        within, beyond = beyond, (number, cost(number))
    return largest_within(cost, limit, within, beyond)


def largest_within(
    cost: Callable[[int], float],
    limit: float,
    within: tuple[int, float],
    beyond: tuple[int, float],
) -> int:
    """Return the largest number with a cost of at most `limit`.

    False position on a cost that does not fall; the end that stays while the other
    moves twice counts half (the Illinois rule).

    Args:
      cost: of a number.
      limit: the most it may be.
      within: a number and its cost, which is at most `limit`.
      beyond: a larger number and its cost, which is not.

    Example:
      >>> largest_within(lambda n: n**0.5, 10.0, (0, 0.0), (1000, 31.6))
      100
    """
    numbers = {True: within[0], False: beyond[0]}
    gaps = {True: within[1] - limit, False: beyond[1] - limit}
    last = None
    while numbers[False] - numbers[True] > 1:
        rise = gaps[False] - gaps[True]
        share = -gaps[True] / rise if math.isfinite(rise) and rise > 0 else 0.5
        guess = numbers[True] + round(share * (numbers[False] - numbers[True]))
        number = min(max(guess, numbers[True] + 1), numbers[False] - 1)
        gap = cost(number) - limit
        side = gap <= 0
        if side == last:
            gaps[not side] /= 2
        numbers[side], gaps[side], last = number, gap, side
    return numbers[True]


def _count(parts: Parts, event: Event) -> int:
    return sum(count for part, count in parts if part == event)


def _add(parts: Parts, event: Event, count: int) -> Parts:
    """Return `parts` with `count` more of `event`, and none that is 0."""
    total = count + _count(parts, event)
    others = [(part, number) for part, number in parts if part != event]
    return [*others, (event, total)] if total else others
