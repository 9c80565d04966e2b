"""Epsilon after many numbers of steps, for the cost of a few.

A contour that is good for n steps is good for numbers near n. Along it, epsilon is a
smooth function of log n: it is computed at Chebyshev's points, and interpolated.
"""

from collections.abc import Callable

import numpy as np
from scipy import interpolate

from dpjax.accounting.contours import contour, ladder
from dpjax.accounting.contours.quadrature import TooManyNodesError
from dpjax.accounting.contours.saddle import Side, WeakContourError

_STRETCH = 1.6
"""How far one contour is stretched over numbers of steps."""

_POINTS = 25

_WEAK_STRETCH, _WEAK_FEW = 1.25, 8
"""Where a number costs much, one serves, as an upper bound, those a little below it."""


def upper(
    side: Side,
    steps: np.ndarray,
    delta: float,
    known: np.ndarray,
    single: Callable[[float], float],
) -> np.ndarray:
    """Return upper bounds on epsilon in one direction, or `known` where that is larger.

    Args:
      side: losses of one step.
      steps: (n,) numbers of steps, at least 1, in increasing order.
      delta: in (0, 1).
      known: (n,) lower bounds on what is asked for.
      single: the epsilon of a number of steps, for those without a good contour.
    """
    values = known.copy()
    if not steps.size:
        return values
    distance = float(side.counts @ np.array([pair.distance for pair in side.pairs]))
    left = distance * steps > delta
    if known.any():
        left &= ladder.bounds(side, steps, delta) > values
    guess = None
    while left.any():
        rows = np.flatnonzero(left)
        rows = rows[steps[rows] <= _STRETCH * steps[rows[0]]]
        try:
            found = _along_one_contour(side, steps[rows], delta, guess)
        except (WeakContourError, TooManyNodesError):
            rows, found = _without_contour(steps, rows, single)
        good = np.isfinite(found)
        values[rows[good]] = np.maximum(values[rows[good]], found[good])
        left[rows[good]] = False
        guess = float(found[good][-1])
    return values


def _along_one_contour(
    side: Side, steps: np.ndarray, delta: float, guess: float | None
) -> np.ndarray:
    """Return epsilons, rounded up by their errors; NaN where there is none."""
    if steps[0] * side.counts.sum() == 1:
        raise WeakContourError
    if steps.size <= _POINTS:
        answers = contour.solve(side, steps, delta, guess)
        return answers.values + answers.errors
    logs = np.log(steps)
    ideal = 0.5 - 0.5 * np.cos(np.pi * np.arange(_POINTS) / (_POINTS - 1))
    chosen = np.searchsorted(logs, logs[0] + ideal * (logs[-1] - logs[0]) - 1e-9)
    chosen = np.unique(np.minimum(chosen, steps.size - 1))
    answers = contour.solve(side, steps[chosen], delta, guess)
    good = np.isfinite(answers.errors)
    last = int(np.argmin(good)) if not good.all() else good.size
    if last < 8:
        return np.where(
            steps == steps[0], answers.values[0] + answers.errors[0], np.nan
        )
    x, y = logs[chosen[:last]], answers.values[:last]
    fine = _interpolate(x, y, logs)
    coarse = _interpolate(x[::2], y[::2], logs)
    within = np.arange(steps.size) <= chosen[last - 1 - (last - 1) % 2]
    errors = np.abs(fine - coarse) + answers.errors[:last].max()
    return np.where(within, fine + errors, np.nan)


def _interpolate(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.asarray(interpolate.BarycentricInterpolator(x, y)(at))


def _without_contour(
    steps: np.ndarray, rows: np.ndarray, single: Callable[[float], float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and upper bounds there."""
    if rows.size <= _WEAK_FEW:
        return rows[:1], np.array([single(steps[rows[0]])])
    rows = rows[steps[rows] <= _WEAK_STRETCH * steps[rows[0]]]
    return rows, np.full(rows.size, single(steps[rows[-1]]))
