"""The exact accountant: the true epsilon of Gaussian releases, with an error bar.

The transform of the privacy loss is inverted along a contour; a single step has a
closed form; where the contour is weak, or something else than Gaussian noise was added,
the accountant of privacy loss distributions answers, and where that has no sound number
the Renyi accountant; `.method` says so.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from dpjax.accounting import inversion, of_parts, pld, rdp
from dpjax.accounting.contours import contour, ladder, one_step, step_curve
from dpjax.accounting.contours.quadrature import TooManyNodesError
from dpjax.accounting.contours.saddle import Side, WeakContourError
from dpjax.accounting.epsilon import AccountingError, Delta, Epsilon
from dpjax.accounting.events import Parts, Relation

_WEAK = (WeakContourError, TooManyNodesError)

_Answer = TypeVar("_Answer")


def epsilon(parts: Parts, delta: float, relation: Relation) -> Epsilon:
    """Return the epsilon of `parts` at `delta`: not below the truth, and next to it.

    | parts                        | how             | `.method` | `.error`   |
    | ---------------------------- | --------------- | --------- | ---------- |
    | plain Gaussian releases      | closed form     | "exact"   | rounding   |
    | one sampled Gaussian release | closed form     | "exact"   | rounding   |
    | Gaussian, some sampled       | contour         | "exact"   | estimated  |
    | the same, contour weak       | `pld.epsilon`   | as there  | as there   |
    | others                       | `pld.epsilon`   | "pld"     | as there   |
    | others without a sound PLD   | `rdp.epsilon`   | "rdp"     | unknown    |

    Args:
      parts: what was released, from `events.take_apart`.
      delta: in (0, 1).
      relation: which data sets are neighbours.

    Raises:
      AccountingError: there is no sound account of a part under `relation`.

    References:
      Zhu, Dong and Wang (2022), Optimal accounting of differential privacy via
      characteristic function; Alghamdi et al. (2023), The saddle-point method in
      differential privacy.
    """
    if not of_parts.is_gaussian(parts):
        return _first_sound(pld.epsilon, rdp.epsilon, parts, delta, relation)
    if not of_parts.is_sampled(parts):
        plain = pld.epsilon(parts, delta, relation)
        return Epsilon(plain, error=plain.error, method="exact")
    try:
        return _of_sampled(parts, delta, relation)
    except _WEAK:
        return _without_contour(parts, delta, relation)


def delta(parts: Parts, epsilon: float, relation: Relation) -> Delta:
    """Return the delta of `parts` at `epsilon`: not below the truth, and next to it.

    Args:
      parts: what was released, from `events.take_apart`.
      epsilon: at least 0.
      relation: which data sets are neighbours.

    Raises:
      AccountingError: there is no sound account of a part under `relation`.
    """
    if not of_parts.is_gaussian(parts):
        return _first_sound(pld.delta, rdp_delta, parts, epsilon, relation)
    both = sides(parts, relation)
    if both[0].counts.sum() == 1:
        pair = both[0].pairs[0]
        logs = [one_step.log_delta(pair, epsilon, added=side.added) for side in both]
        value, slack = max(logs), one_step.ROUNDING
    else:
        try:
            value, slack = _worse_delta(both, epsilon)
        except _WEAK:
            return pld.delta(parts, epsilon, relation)
    return Delta(min(0.0, value + slack), error=2 * slack, method="exact")


def curve(
    parts: Parts, delta: float, relation: Relation, steps: Sequence[int]
) -> np.ndarray:
    """Return epsilon after each number of `steps`, one step releasing `parts`."""
    if not (of_parts.is_gaussian(parts) and of_parts.is_sampled(parts)):
        return _first_sound(pld.curve, rdp.curve, parts, delta, relation, steps)

    @functools.cache
    def single(number: float) -> float:
        scaled = [(part, int(number) * count) for part, count in parts]
        return _of_sampled(scaled, delta, relation)

    def without_contour(numbers: np.ndarray) -> np.ndarray:
        return _curve_without_contour(parts, delta, relation, numbers)

    numbers = np.array(steps, dtype=float)
    unique = np.unique(numbers[numbers > 0])
    values = np.zeros(unique.size)
    for side in sides(parts, relation):
        values = step_curve.upper(side, unique, delta, values, single, without_contour)
    result = np.zeros(numbers.size)
    result[numbers > 0] = values[np.searchsorted(unique, numbers[numbers > 0])]
    return result


def sides(parts: Parts, relation: Relation) -> list[Side]:
    """Return the losses of `parts` when one is removed and, if they differ, added."""
    pairs = [of_parts.pair(part, relation) for part, _ in parts]
    counts = np.array([count for _, count in parts], dtype=float)
    symmetric = all(pair.symmetric for pair in pairs)
    return [
        Side(pairs, counts, added)
        for added in ((False,) if symmetric else (False, True))
    ]


def _first_sound(
    first: Callable[..., _Answer], second: Callable[..., _Answer], *args: Any
) -> _Answer:
    """Return the answer of the first accountant, or of the second where it has none."""
    try:
        return first(*args)
    except AccountingError as error:
        try:
            return second(*args)
        except AccountingError:
            raise error from None


def rdp_delta(parts: Parts, epsilon: float, relation: Relation) -> Delta:
    """Return a delta at which the Renyi accountant says at most `epsilon`."""
    return inversion.invert(rdp.epsilon, parts, epsilon, relation)


def _of_sampled(parts: Parts, delta: float, relation: Relation) -> Epsilon:
    """Return the epsilon of Gaussian parts of which some are sampled.

    Raises:
      WeakContourError, TooManyNodesError: there is no good contour.
    """
    pairs = [of_parts.pair(part, relation) for part, _ in parts]
    counts = np.array([count for _, count in parts], dtype=float)
    if sum(n * pair.distance for pair, n in zip(pairs, counts, strict=True)) <= delta:
        return Epsilon(0.0, error=0.0, method="exact")
    if counts.sum() == 1:
        value, slack = one_step.epsilon(pairs[0], delta)
    else:
        value, slack = _worse(sides(parts, relation), delta)
    return Epsilon(max(0.0, value + slack), error=2 * slack, method="exact")


def _without_contour(parts: Parts, delta: float, relation: Relation) -> Epsilon:
    """Return the least of the PLD bound, that without sampling, and the Renyi bound."""
    bounds = [
        pld.epsilon(some, delta, relation)
        for some in (parts, of_parts.unsampled(parts))
    ]
    return min(*bounds, rdp.epsilon(parts, delta, relation))


def _curve_without_contour(
    parts: Parts, delta: float, relation: Relation, numbers: np.ndarray
) -> np.ndarray:
    """Return the same after several numbers of steps, one step releasing `parts`."""
    steps = [int(number) for number in numbers]
    curves = [
        pld.curve(some, delta, relation, steps)
        for some in (parts, of_parts.unsampled(parts))
    ]
    values = np.minimum(*curves)
    # The Renyi bound is the least, if ever, where a grid is too coarse.
    ends = rdp.curve(parts, delta, relation, [steps[0], steps[-1]])
    if (ends > values[[0, -1]]).all():
        return values
    return np.minimum(values, rdp.curve(parts, delta, relation, steps))


def _worse(both: Sequence[Side], delta: float) -> tuple[float, float]:
    """Return the larger epsilon of all sides, and its error."""
    once = np.ones(1)
    value, slack = -math.inf, 0.0
    for side in both:
        if value > 0 and ladder.bounds(side, once, delta)[0] <= value:
            continue
        answers = contour.solve(side, once, delta)
        if answers.values[0] > value:
            value, slack = float(answers.values[0]), float(answers.errors[0])
    return value, slack


def _worse_delta(both: Sequence[Side], epsilon: float) -> tuple[float, float]:
    """Return the larger log delta of all sides, and its error."""
    value, slack = contour.log_delta(both[0], epsilon)
    for side in both[1:]:
        if ladder.wide(side, value).delta_bound(epsilon)[0] > value - 1e-3:
            value, slack = max((value, slack), contour.log_delta(side, epsilon))
    return value, slack
