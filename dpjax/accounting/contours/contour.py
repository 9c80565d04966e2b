r"""Delta and epsilon of a sum of privacy losses, along a contour in the complex plane.

With K(z) the logarithm of E e^(z L) of the total loss L, and any t > 0,

    delta(epsilon) = 1/(2 pi i) int_{Re z = t} e^(K(z) - z epsilon) / (z (z + 1)) dz

Where few steps sample anybody, e^K hardly decays along the contour: the steps that do
not are a spike of nearly no loss. They alone never add up to epsilon, so their share of
e^K(z), the product of the moments of small losses, integrates to 0 and is taken away.
"""

import contextlib
import math
from typing import NamedTuple

import numpy as np

from dpjax.accounting.contours import ladder, saddle
from dpjax.accounting.contours.frame import FEW, Effort, Frame, Search, covers, frame
from dpjax.accounting.contours.ladder import DIGITS, Table
from dpjax.accounting.contours.line import Deltas, Line, deltas
from dpjax.accounting.contours.quadrature import Region, TooManyNodesError
from dpjax.accounting.contours.saddle import Side, WeakContourError

_SOME, _MOST = 2**12, 2**14
"""Nodes that may be spent on a first look, and on the answer."""

_ROUGHLY = 12.0
"""e^-12 of delta may be left out at the first look."""

_LEFT_OUT = 28.0
"""Losses of e^-28 of delta are left out at the top: 7e-13 of it."""

_ULP = 2.0**-52
_ROUNDS = 6
_NEWTON_STEPS = 60


class Answers(NamedTuple):
    """Epsilons of several numbers of steps.

    Attributes:
      values: (repeats,) in nats.
      errors: (repeats,) how far they may be off, either way; NaN for no answer.
    """

    values: np.ndarray
    errors: np.ndarray


def solve(
    side: Side, repeats: np.ndarray, delta: float, guess: float | None = None
) -> Answers:
    """Return the epsilons at `delta` of as many steps as `repeats` says.

    The line is drawn for the first of them, and serves those for which it is good.

    Args:
      side: losses of one step.
      repeats: (n,) numbers of steps, in increasing order.
      delta: in (0, 1).
      guess: about the first epsilon, where it is known.

    Raises:
      WeakContourError, TooManyNodesError: the first has no good contour.
    """
    log_delta = math.log(delta)
    steps = float(side.counts.sum() * repeats.max())
    region = Region(log_delta - math.log(steps) - _LEFT_OUT, side.added)
    rules = saddle.rough(side, region)
    tilt, epsilon = saddle.start(rules, repeats[0], log_delta)
    table = Table.around(rules, tilt)
    epsilon = min(epsilon, table.bound(repeats[0], log_delta))
    if guess is not None and 0 < guess < epsilon:
        epsilon = guess
    search = Search(side, region, rules, table)
    try:
        return _settle(search, repeats, epsilon, log_delta, Effort(DIGITS, FEW, False))
    except (WeakContourError, TooManyNodesError):
        if guess is not None and epsilon == guess:
            with contextlib.suppress(WeakContourError, TooManyNodesError):
                return _settle_capped(search, repeats, epsilon, log_delta)
        # A few digits of epsilon are had for little, and a floor should fit it.
        rough = _settle(
            search, repeats[:1], epsilon, log_delta, Effort(_ROUGHLY, _SOME)
        )
        epsilon = float(rough.values[0])
        return _settle_capped(search, repeats, epsilon, log_delta)


def log_delta(side: Side, epsilon: float) -> tuple[float, float]:
    """Return log delta at `epsilon`, and its error.

    Raises:
      WeakContourError, TooManyNodesError: there is no good contour.
    """
    once, epsilons = np.ones(1), np.array([epsilon])
    size = math.log(side.counts.sum())
    value = ladder.wide(side, -60.0 - size).delta_bound(epsilon)[0]
    for _ in range(_ROUNDS):
        bound, tilt = ladder.wide(side, value - size).delta_bound(epsilon)
        region = Region(min(value, bound) - size - _LEFT_OUT, side.added)
        rules = saddle.rough(side, region)
        table = Table.around(rules, tilt)
        search = Search(side, region, rules, table)
        effort = Effort(DIGITS, _MOST)
        framed = frame(search, 1.0, epsilon, min(value, bound), effort)
        logs = framed.line.logs(once)
        now = deltas(framed.line, once, logs, epsilons)
        if covers(search, framed, once, logs, epsilons, now.log + 1.0)[0]:
            return float(now.log[0]), float(now.error[0]) + 2 * math.exp(-_LEFT_OUT)
        value = float(now.log[0]) if np.isfinite(now.log[0]) else value - 10.0
    raise WeakContourError


def _settle_capped(
    search: Search, repeats: np.ndarray, epsilon: float, log_delta: float
) -> Answers:
    """Return the answers with a ceiling, which needs a good guess of epsilon."""
    capped = search.capped(repeats, epsilon)
    effort = Effort(DIGITS, _MOST, plain=False)
    return _settle(capped, repeats, epsilon, log_delta, effort)


def _settle(
    search: Search,
    repeats: np.ndarray,
    epsilon: float,
    log_delta: float,
    effort: Effort,
) -> Answers:
    """Return the answers along a line that is good at the first of them."""
    for _ in range(_ROUNDS):
        framed = frame(search, repeats[0], epsilon, log_delta, effort)
        answers = _solve_along(search, framed, repeats, epsilon, log_delta)
        if math.isfinite(answers.errors[0]):
            return answers
        if not math.isfinite(answers.values[0]):
            break
        least = epsilon - max(0.5 * abs(epsilon), 1 / framed.line.tilt)
        epsilon = max(float(answers.values[0]), least)
    raise WeakContourError


@np.errstate(divide="ignore", invalid="ignore")  # a delta that does not fall
def _solve_along(
    search: Search,
    framed: Frame,
    repeats: np.ndarray,
    epsilon: float,
    log_delta: float,
) -> Answers:
    """Return the epsilons at delta, and errors where the line is good for them."""
    line = framed.line
    logs = line.logs(repeats)
    guesses = epsilon * (repeats / repeats[0]) ** 0.6
    epsilons, now = _newton(line, repeats, logs, guesses, log_delta)
    log_deltas = np.full(repeats.size, log_delta)
    good = np.isfinite(now.log) & (np.abs(now.log - log_delta) < 1e-6)
    good &= covers(search, framed, repeats, logs, epsilons, log_deltas)
    errors = (now.error + 2 * math.exp(-_LEFT_OUT)) / -now.slope
    errors += np.abs((now.log - log_delta) / now.slope) + 4 * _ULP * np.abs(epsilons)
    return Answers(epsilons, np.where(good, errors, np.nan))


def _newton(
    line: Line,
    repeats: np.ndarray,
    logs: np.ndarray,
    epsilons: np.ndarray,
    log_delta: float,
) -> tuple[np.ndarray, Deltas]:
    """Return where log delta is `log_delta`, and the values there, kept in brackets."""
    low, high = np.full(epsilons.size, -np.inf), np.full(epsilons.size, np.inf)
    epsilons = epsilons.copy()
    most = 4.0 / line.tilt
    for _ in range(_NEWTON_STEPS):
        now = deltas(line, repeats, logs, epsilons)
        # Where all is rounding, delta is smaller.
        short = now.log > log_delta
        low, high = np.where(short, epsilons, low), np.where(short, high, epsilons)
        changes = np.nan_to_num((log_delta - now.log) / now.slope, nan=-np.inf)
        new = epsilons + np.clip(changes, -most, most)
        bottom = np.where(np.isfinite(low), low, np.minimum(high, epsilons) - most)
        middle = 0.5 * (bottom + np.where(np.isfinite(high), high, bottom + most))
        new = np.where((new > low) & (new < high), new, middle)
        close = (
            np.abs(changes) <= 1e-15 * np.abs(epsilons) + 0.01 * now.error / -now.slope
        )
        if close.all():
            break
        epsilons = np.where(close, epsilons, new)
    return epsilons, deltas(line, repeats, logs, epsilons)
