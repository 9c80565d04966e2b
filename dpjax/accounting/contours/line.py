"""The transform of privacy losses along a line, and deltas from it."""

import math
from typing import NamedTuple

import numpy as np

from dpjax.accounting.contours import cumulant
from dpjax.accounting.contours.quadrature import Region
from dpjax.accounting.contours.saddle import Side, WeakContourError

_CHUNK = 64
_ULP = 2.0**-52

_LARGEST_EXPONENT = 700.0

_MOST_CANCELLED = 1e-7
"""Largest share of rounding in a delta that is one."""


class Line(NamedTuple):
    """The transform of one step at equidistant nodes of a contour.

    Attributes:
      tilt: where it crosses the real line.
      step: distance of nodes.
      log_rest: (nodes,) logarithms of the moments of losses below the floor.
      gain: (nodes,) logarithms of all moments over those; None without a floor.
      rounding: absolute error of both.
      beyond: logarithms of the masses of P and of Q at or below the ceiling.
    """

    tilt: float
    step: float
    log_rest: np.ndarray
    gain: np.ndarray | None
    rounding: float
    beyond: tuple[float, float] = (0.0, 0.0)

    @property
    def z(self) -> np.ndarray:
        """Nodes: (nodes,)."""
        return self.tilt + 1j * self.step * np.arange(self.log_rest.size)

    def logs(self, repeats: np.ndarray) -> np.ndarray:
        """Return the logarithms of the integrand at epsilon = 0: (repeats, nodes)."""
        total = repeats[:, None] * self.log_rest
        if self.gain is not None:
            total += _log_expm1(repeats[:, None] * self.gain)
        return total - np.log(self.z) - np.log1p(self.z)

    def above(
        self, repeats: np.ndarray, epsilons: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what losses above the ceiling add to delta, and the slope of that.

        With one of them, the total is above epsilon whatever the others are: delta is
        P's mass less e^epsilon times Q's.
        """
        upper = -np.expm1(repeats * self.beyond[0])
        with np.errstate(divide="ignore"):
            log_lower = epsilons + np.log(-np.expm1(repeats * self.beyond[1]))
        lower = -np.exp(np.minimum(log_lower, _LARGEST_EXPONENT))
        return upper + lower, lower


class Deltas(NamedTuple):
    """Values along a line, (repeats,) each: NaN where they are rounding.

    Attributes:
      log: log delta.
      slope: its derivative by epsilon.
      error: its error by rounding.
    """

    log: np.ndarray
    slope: np.ndarray
    error: np.ndarray


def deltas(
    line: Line, repeats: np.ndarray, logs: np.ndarray, epsilons: np.ndarray
) -> Deltas:
    """Return the deltas at `epsilons` of `repeats` steps, from `line.logs(repeats)`."""
    origin = logs[:, :1].real
    turns = line.z.imag * epsilons[:, None]
    known = np.abs(origin) + np.abs(line.tilt * epsilons[:, None]) + 4
    errors = _ULP * (known + np.abs(logs.imag) + np.abs(turns))
    errors += repeats[:, None] * line.rounding
    scale = math.log(line.step / math.pi) + origin[:, 0] - line.tilt * epsilons
    # Where the first node is far from the largest, all is rounding, and infinite.
    with np.errstate(over="ignore", invalid="ignore"):
        terms = np.exp(logs - origin - 1j * turns)
        terms[:, 0] *= 0.5
        total = terms.real.sum(axis=1)
        slope = (terms @ line.z).real
        absolute = (errors * np.abs(terms)).sum(axis=1)
    if line.beyond[0] < 0:
        values, slopes = line.above(repeats, epsilons)
        shrink = np.exp(-scale)
        total, slope = total + shrink * values, slope - shrink * slopes
        absolute += 1e-14 * shrink * values
    with np.errstate(invalid="ignore", divide="ignore"):
        error = absolute / total
        good = (total > 0) & (error < _MOST_CANCELLED)
        log_total = np.log(np.where(good, total, np.nan))
        return Deltas(scale + log_total, -slope / total, error)


def draw(
    side: Side,
    region: Region,
    tilt: float,
    span: float,
    repeats: float,
    floor: float,
    most: int,
) -> Line:
    """Return the line through `tilt`, until terms of the integral are below e^floor.

    Raises:
      WeakContourError, TooManyNodesError: that takes more than `most` nodes, or too
        many at one of them, or there is no such span.
    """
    if not 0 < span < math.inf:
        raise WeakContourError
    step = 2 * math.pi / span
    line = Line(tilt, step, np.zeros(0), None, 0.0)
    size, chunk = 0, _CHUNK
    while size < most:
        heights = step * np.arange(size, size + chunk)
        line = _longer(line, *_transform(side, region, tilt, heights))
        size += chunk
        last = line.logs(np.array([repeats]))[0, size - chunk // 2 :].real
        if last.max() + math.log(step / math.pi) < floor:
            return line
        chunk = size
    raise WeakContourError


def _longer(
    line: Line, rest: np.ndarray, gain: np.ndarray | None, rounding: float
) -> Line:
    """Return the line with more nodes."""
    if gain is not None and line.gain is not None:
        gain = np.append(line.gain, gain)
    return line._replace(
        log_rest=np.append(line.log_rest, rest),
        gain=gain,
        rounding=max(line.rounding, rounding),
    )


def _log_expm1(gain: np.ndarray) -> np.ndarray:
    large = gain.real > 30
    excess = np.expm1(np.where(large, 1.0, gain))
    return np.where(large, gain, np.log(excess + 1e-300))


def _transform(
    side: Side, region: Region, tilt: float, heights: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Return log_rest, gain and rounding of `Line` at heights above `tilt`."""
    real, sign = (-tilt, -1.0) if side.added else (1.0 + tilt, 1.0)
    rest = np.zeros(heights.size, dtype=complex)
    gain = np.zeros(heights.size, dtype=complex)
    rounding = 0.0
    for pair, count in zip(side.pairs, side.counts, strict=True):
        one = cumulant.moments(pair, real, sign * heights, region)
        rest += count * one.log_rest
        gain += count * one.gain
        rounding += count * one.rounding
    return rest, None if region.floor is None else gain, rounding
