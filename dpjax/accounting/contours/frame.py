"""Lines that are good for given numbers of steps, epsilon and delta."""

import contextlib
import math
from typing import NamedTuple

import numpy as np

from dpjax.accounting.contours import ladder, saddle
from dpjax.accounting.contours.ladder import Table
from dpjax.accounting.contours.line import Line, draw
from dpjax.accounting.contours.quadrature import Region, TooManyNodesError
from dpjax.accounting.contours.saddle import Rough, Side, WeakContourError

FEW = 256
"""Nodes that may be spent on a line before a floor is looked for."""


class Search(NamedTuple):
    """What does not depend on where exactly the contour is.

    Attributes:
      side: losses of one step.
      region: which of them the contour is for.
      rules: rough quadratures within the region.
      table: their moments.
      beyond: logarithms of the masses of P and of Q at or below the ceiling.
    """

    side: Side
    region: Region
    rules: Rough
    table: Table
    beyond: tuple[float, float] = (0.0, 0.0)

    def depth(self, repeats: np.ndarray | float) -> np.ndarray | float:
        """Return how far below 0 the total loss can be."""
        both = zip(self.side.pairs, self.side.counts, strict=True)
        return -repeats * sum(n * math.log1p(-pair.sampling_prob) for pair, n in both)

    def capped(self, repeats: np.ndarray, epsilon: float) -> "Search":
        """Return the search with a ceiling that suits epsilon, if there can be one."""
        pairs = self.side.pairs
        if self.side.added or any(p.replace_one or p.sampling_prob == 1 for p in pairs):
            return self
        stretch = (repeats[-1] / repeats[0]) ** 0.7
        ceiling = 1.02 * stretch * abs(epsilon) + float(self.depth(repeats[-1]))
        highest = max(float(p.loss(np.array(self.region.top(p)))) for p in pairs)
        if ceiling > 0.8 * highest:
            return self
        region = self.region._replace(ceiling=ceiling)
        masses = np.array([region.left_out(pair) for pair in pairs])
        upper, lower = self.side.counts @ np.log1p(-masses)
        rules = saddle.rough(self.side, region)
        middle = float(self.table.tilts[self.table.tilts.size // 2])
        table = Table.around(rules, middle)
        return Search(self.side, region, rules, table, (float(upper), float(lower)))


class Effort(NamedTuple):
    """What may be left out, and what may be used.

    Attributes:
      digits: e^-digits of delta may be left out.
      most: nodes of a line.
      floors: whether a line may have a floor.
      plain: whether a line without one is tried before.
    """

    digits: float
    most: int
    floors: bool = True
    plain: bool = True


class Frame(NamedTuple):
    """A line, and what it is good for.

    Attributes:
      line: the line.
      rung: index of its tilt in the search's table.
      floor: moments of losses below the floor, or None without one.
      digits: e^-digits of delta is what it may leave out.
    """

    line: Line
    rung: int
    floor: Table | None
    digits: float


def frame(
    search: Search, repeats: float, epsilon: float, log_delta: float, effort: Effort
) -> Frame:
    """Return a line for the first of the repeats, with a floor where it needs one."""
    side, region, rules, table, beyond = search
    index, span = table.place(repeats, epsilon, log_delta, effort.digits)
    tilt = float(table.tilts[index])
    least = log_delta + tilt * epsilon - effort.digits - 2
    try:
        if effort.plain:
            drawn = draw(side, region, tilt, 1.05 * span, repeats, least, FEW)
            return Frame(drawn._replace(beyond=beyond), index, None, effort.digits)
    except (WeakContourError, TooManyNodesError):
        if not effort.floors:
            raise
    floor = None
    if epsilon > 0:
        with contextlib.suppress(WeakContourError):
            most = log_delta - effort.digits
            region, floor = ladder.find_floor(
                rules, side, region, repeats, epsilon, most
            )
    drawn = draw(side, region, tilt, 1.05 * span, repeats, least, effort.most)
    return Frame(drawn._replace(beyond=beyond), index, floor, effort.digits)


def covers(
    search: Search,
    framed: Frame,
    repeats: np.ndarray,
    logs: np.ndarray,
    epsilons: np.ndarray,
    log_deltas: np.ndarray,
) -> np.ndarray:
    """Tell for which of the repeats what the line leaves out is nothing."""
    line, table = framed.line, search.table
    chernoff = table.chernoff(repeats, epsilons, log_deltas)
    good = np.isfinite(epsilons + log_deltas)
    good &= (
        table.aliases(chernoff, framed.rung, framed.digits) <= 2 * math.pi / line.step
    )
    if framed.floor is not None:
        bounds = framed.floor.chernoff(repeats, epsilons, log_deltas)
        good &= bounds.min(axis=1) < 1 - framed.digits
    if search.region.ceiling is not None:
        good &= epsilons + search.depth(repeats) <= search.region.ceiling
    last = logs[:, -8:].real.max(axis=1) - line.tilt * epsilons
    return good & (last + math.log(line.step / math.pi) < log_deltas - framed.digits)
