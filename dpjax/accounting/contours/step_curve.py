"""Epsilon after many numbers of steps, for the cost of a few.

A contour that is good for n steps is good for numbers near n. Along it, epsilon is a
smooth function of log n: it is computed at Chebyshev's points, and interpolated.
"""

import contextlib
from collections.abc import Callable

import numpy as np
from scipy import interpolate

from dpjax.accounting.contours import contour, ladder
from dpjax.accounting.contours.quadrature import TooManyNodesError
from dpjax.accounting.contours.saddle import Side, WeakContourError

_STRETCH = 1.6
"""How far one contour is stretched over numbers of steps."""

_POINTS, _FEWEST = 17, 8
"""Along a contour that is good at fewer points, numbers nearer to its own are tried."""

_FEW = 2
"""So few numbers are not worth a contour of their own."""

_WEAK_STRETCHES, _WEAK_POINTS = (16.0, 16.0, 1000.0), (7, 7, 11)
"""How far numbers without a contour are interpolated, and between how many: at first,
and where there is no contour beyond that either."""


def upper(
    side: Side,
    steps: np.ndarray,
    delta: float,
    known: np.ndarray,
    single: Callable[[float], float],
    without_contour: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Return upper bounds on epsilon in one direction, or `known` where that is larger.

    Args:
      side: losses of one step.
      steps: (n,) numbers of steps, at least 1, in increasing order.
      delta: in (0, 1).
      known: (n,) lower bounds on what is asked for.
      single: the epsilon of a number of steps; raises as `contour.solve` does.
      without_contour: the epsilons of several, for those without a good contour.
    """
    values = known.copy()
    if not steps.size:
        return values
    distance = float(side.counts @ np.array([pair.distance for pair in side.pairs]))
    left = distance * steps > delta
    if known.any():
        with contextlib.suppress(WeakContourError):
            left &= ladder.bounds(side, steps, delta) > values
    guess, weak = None, 0
    while left.any():
        rows = np.flatnonzero(left)
        ratios = steps[rows] / steps[rows[0]]
        near = rows[ratios <= _STRETCH]
        try:
            if near.size <= _FEW:
                near, found = near[:1], np.array([single(steps[near[0]])])
            else:
                found = _along_one_contour(side, steps[near], delta, guess)
            rows = near
        except (WeakContourError, TooManyNodesError):
            rows = rows[ratios <= _WEAK_STRETCHES[weak]]
            found = _between(steps[rows], _WEAK_POINTS[weak], without_contour)
            weak = min(weak + 1, len(_WEAK_POINTS) - 1)
        good = np.isfinite(found)
        values[rows[good]] = np.maximum(values[rows[good]], found[good])
        left[rows[good]] = False
        guess = float(found[good][-1])
    # A step more never costs less.
    return np.minimum.accumulate(values[::-1])[::-1]


def _between(
    steps: np.ndarray, points: int, epsilons: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return `epsilons` interpolated between a few of the steps, rounded up.

    A step more never costs less: where the interpolation is too coarse, the next of
    the few is a bound.
    """
    if steps.size <= points:
        return epsilons(steps)
    logs = np.log(steps)
    chosen = _spread(logs, points)
    at_chosen = epsilons(steps[chosen])
    result = at_chosen[np.searchsorted(chosen, np.arange(steps.size))]
    used, y = chosen[at_chosen > 0], at_chosen[at_chosen > 0]
    if used.size > points // 2:
        rows = slice(used[0], None)
        values, errors = _interpolated(logs[used], np.log(y), logs[rows])
        result[rows] = np.minimum(result[rows], np.exp(values + errors))
    return result


def _along_one_contour(
    side: Side, steps: np.ndarray, delta: float, guess: float | None
) -> np.ndarray:
    """Return epsilons, rounded up by their errors; NaN where there is none."""
    if steps.size <= _POINTS:
        answers = contour.solve(side, steps, delta, guess)
        return answers.values + answers.errors
    logs = np.log(steps)
    chosen = _spread(logs, _POINTS)
    answers = contour.solve(side, steps[chosen], delta, guess)
    good = np.isfinite(answers.errors)
    last = int(np.argmin(good)) if not good.all() else good.size
    if last < _FEWEST:
        near = int(chosen[max(last - 1, 1)])
        found = _along_one_contour(side, steps[:near], delta, answers.values[0])
        return np.append(found, np.full(steps.size - near, np.nan))
    used = chosen[:last]
    values, errors = _interpolated(logs[used], answers.values[:last], logs)
    errors += answers.errors[:last].max()
    within = np.arange(steps.size) <= chosen[last - 1 - (last - 1) % 2]
    return np.where(within, values + errors, np.nan)


def _spread(logs: np.ndarray, points: int) -> np.ndarray:
    """Return indices of about as many of `logs`, as Chebyshev's points are spread."""
    ideal = 0.5 - 0.5 * np.cos(np.pi * np.arange(points) / (points - 1))
    wanted = logs[0] + ideal * (logs[-1] - logs[0]) - 1e-9
    return np.unique(np.minimum(np.searchsorted(logs, wanted), logs.size - 1))


def _interpolated(
    x: np.ndarray, y: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return values, and how far they are from those of half of the points."""
    fine, coarse = (
        np.asarray(interpolate.BarycentricInterpolator(x[::stride], y[::stride])(at))
        for stride in (1, 2)
    )
    return fine, np.abs(fine - coarse)
