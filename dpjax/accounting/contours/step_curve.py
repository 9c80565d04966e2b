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

_POINTS, _FEWEST = 25, 8
"""Along a contour that is good at fewer points, numbers nearer to its own are tried."""

_FEW = 2
"""So few numbers are not worth a contour of their own."""

_WEAK_STRETCH = 1.25
"""Without a contour one number serves, as an upper bound, those a little below it."""


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
        if rows.size <= _FEW:
            rows, found = rows[:1], np.array([single(steps[rows[0]])])
        else:
            rows, found = _together(side, steps, rows, delta, guess, single)
        good = np.isfinite(found)
        values[rows[good]] = np.maximum(values[rows[good]], found[good])
        left[rows[good]] = False
        guess = float(found[good][-1])
    return values


def _together(
    side: Side,
    steps: np.ndarray,
    rows: np.ndarray,
    delta: float,
    guess: float | None,
    single: Callable[[float], float],
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and upper bounds there."""
    try:
        return rows, _along_one_contour(side, steps[rows], delta, guess)
    except (WeakContourError, TooManyNodesError):
        rows = rows[steps[rows] <= _WEAK_STRETCH * steps[rows[0]]]
        return rows, np.full(rows.size, single(steps[rows[-1]]))


def _along_one_contour(
    side: Side, steps: np.ndarray, delta: float, guess: float | None
) -> np.ndarray:
    """Return epsilons, rounded up by their errors; NaN where there is none."""
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
    if last < _FEWEST:
        near = int(chosen[max(last - 1, 1)])
        found = _along_one_contour(side, steps[:near], delta, answers.values[0])
        return np.append(found, np.full(steps.size - near, np.nan))
    x, y = logs[chosen[:last]], answers.values[:last]
    fine = _interpolate(x, y, logs)
    coarse = _interpolate(x[::2], y[::2], logs)
    within = np.arange(steps.size) <= chosen[last - 1 - (last - 1) % 2]
    errors = np.abs(fine - coarse) + answers.errors[:last].max()
    return np.where(within, fine + errors, np.nan)


def _interpolate(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.asarray(interpolate.BarycentricInterpolator(x, y)(at))
