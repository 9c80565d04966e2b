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

from dpjax.accounting import cumulant, saddle
from dpjax.accounting.quadrature import Region, TooManyNodesError
from dpjax.accounting.saddle import DIGITS, Rough, Side, Table, WeakContourError

_CHUNK = 64
_FEW, _SOME, _MOST = 256, 2**12, 2**14
_LEFT_OUT = 28.0
"""Losses of e^-28 of delta are left out at the top: 7e-13 of it."""

_ULP = 2.0**-52
_MOST_CANCELLED = 1e-7
_ROUNDS = 12
_NEWTON_STEPS = 60


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
        lower = np.exp(epsilons) * np.expm1(repeats * self.beyond[1])
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
    terms = np.exp(logs - origin - 1j * turns)
    terms[:, 0] *= 0.5
    total = terms.real.sum(axis=1)
    slope = (terms @ line.z).real
    sizes = np.abs(terms)
    known = np.abs(origin) + np.abs(line.tilt * epsilons[:, None]) + 4
    errors = _ULP * (known + np.abs(logs.imag) + np.abs(turns))
    errors += repeats[:, None] * line.rounding
    scale = math.log(line.step / math.pi) + origin[:, 0] - line.tilt * epsilons
    absolute = (errors * sizes).sum(axis=1)
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
        many at one of them.
    """
    step = 2 * math.pi / span
    pieces: list[tuple[np.ndarray, np.ndarray]] = []
    size, chunk = 0, _CHUNK
    while size < most:
        heights = step * np.arange(size, size + chunk)
        rest, gain, rounding = _transform(side, region, tilt, heights)
        pieces.append((rest, gain))
        size += chunk
        line = Line(tilt, step, rest, None if region.floor is None else gain, rounding)
        z = tilt + 1j * heights[chunk // 2 :]
        last = repeats * rest[chunk // 2 :] - np.log(z * (1 + z))
        if region.floor is not None:
            last = last + _log_expm1(repeats * gain[chunk // 2 :])
        if last.real.max() + math.log(step / math.pi) < floor:
            rest, gain = (
                np.concatenate(column) for column in zip(*pieces, strict=True)
            )
            return line._replace(
                log_rest=rest, gain=None if region.floor is None else gain
            )
        chunk = size
    raise WeakContourError


def _log_expm1(gain: np.ndarray) -> np.ndarray:
    large = gain.real > 30
    excess = np.expm1(np.where(large, 1.0, gain))
    return np.where(large, gain, np.log(excess + 1e-300))


def _transform(
    side: Side, region: Region, tilt: float, heights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
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
    return rest, gain, rounding


class Answers(NamedTuple):
    """Epsilons or logarithms of deltas, (repeats,), and their errors; NaN for none."""

    values: np.ndarray
    errors: np.ndarray
    nodes: int = 0
    floor: float = 0.0


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
    search = _Search(side, region, rules, table)
    try:
        return _settle(
            search, repeats, epsilon, log_delta, _Effort(DIGITS, _FEW, False)
        )
    except (WeakContourError, TooManyNodesError):
        if guess is not None and epsilon == guess:
            with contextlib.suppress(WeakContourError, TooManyNodesError):
                return _settle_capped(search, repeats, epsilon, log_delta)
        # A few digits of epsilon are had for little, and a floor should fit it.
        rough = _settle(search, repeats[:1], epsilon, log_delta, _Effort(12.0, _SOME))
        epsilon = float(rough.values[0])
        return _settle_capped(search, repeats, epsilon, log_delta)


def log_delta(side: Side, epsilon: float) -> tuple[float, float]:
    """Return log delta at `epsilon`, and its error.

    Raises:
      WeakContourError, TooManyNodesError: there is no good contour.
    """
    once, epsilons = np.ones(1), np.array([epsilon])
    size = math.log(side.counts.sum())
    value = saddle.wide(side, -60.0 - size).delta_bound(epsilon)[0]
    for _ in range(_ROUNDS):
        bound, tilt = saddle.wide(side, value - size).delta_bound(epsilon)
        region = Region(min(value, bound) - size - _LEFT_OUT, side.added)
        rules = saddle.rough(side, region)
        table = Table.around(rules, tilt)
        search = _Search(side, region, rules, table)
        effort = _Effort(DIGITS, _MOST)
        frame = _frame(search, 1.0, epsilon, min(value, bound), effort)
        logs = frame.line.logs(once)
        now = deltas(frame.line, once, logs, epsilons)
        if _covers(search, frame, once, logs, epsilons, now.log + 1.0)[0]:
            return float(now.log[0]), float(now.error[0]) + 2 * math.exp(-_LEFT_OUT)
        value = float(now.log[0]) if np.isfinite(now.log[0]) else value - 10.0
    raise WeakContourError


class _Search(NamedTuple):
    side: Side
    region: Region
    rules: Rough
    table: Table
    beyond: tuple[float, float] = (0.0, 0.0)

    def depth(self, repeats: np.ndarray | float) -> np.ndarray | float:
        """Return how far below 0 the total loss can be."""
        both = zip(self.side.pairs, self.side.counts, strict=True)
        return -repeats * sum(n * math.log1p(-pair.sampling_prob) for pair, n in both)

    def capped(self, repeats: np.ndarray, epsilon: float) -> "_Search":
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
        return _Search(self.side, region, rules, table, (float(upper), float(lower)))


class _Effort(NamedTuple):
    """What is left out, e^-digits of delta, and what may be used."""

    digits: float
    most: int
    floors: bool = True


class _Frame(NamedTuple):
    line: Line
    index: int
    floor: Table | None
    digits: float


def _settle_capped(
    search: _Search, repeats: np.ndarray, epsilon: float, log_delta: float
) -> Answers:
    """Return the answers with a ceiling, which needs a good guess of epsilon."""
    capped = search.capped(repeats, epsilon)
    return _settle(capped, repeats, epsilon, log_delta, _Effort(DIGITS, _MOST))


def _settle(
    search: _Search,
    repeats: np.ndarray,
    epsilon: float,
    log_delta: float,
    effort: _Effort,
) -> Answers:
    """Return the answers along a line that is good at the first of them."""
    for _ in range(_ROUNDS):
        frame = _frame(search, repeats[0], epsilon, log_delta, effort)
        answers = _solve_along(search, frame, repeats, epsilon, log_delta)
        if math.isfinite(answers.errors[0]):
            return answers
        if not math.isfinite(answers.values[0]):
            break
        least = epsilon - max(0.5 * abs(epsilon), 1 / frame.line.tilt)
        epsilon = max(float(answers.values[0]), least)
    raise WeakContourError


def _frame(
    search: _Search, repeats: float, epsilon: float, log_delta: float, effort: _Effort
) -> _Frame:
    """Return a line for the first of the repeats, with a floor where it needs one."""
    side, region, rules, table, beyond = search
    index, span = table.place(repeats, epsilon, log_delta, effort.digits)
    tilt = float(table.tilts[index])
    least = log_delta + tilt * epsilon - effort.digits - 2
    try:
        line = draw(side, region, tilt, 1.05 * span, repeats, least, _FEW)
        return _Frame(line._replace(beyond=beyond), index, None, effort.digits)
    except (WeakContourError, TooManyNodesError):
        if not effort.floors:
            raise
    floor = None
    if epsilon > 0:
        with contextlib.suppress(WeakContourError):
            most = log_delta - effort.digits
            region, floor = saddle.find_floor(
                rules, side, region, repeats, epsilon, most
            )
    line = draw(side, region, tilt, 1.05 * span, repeats, least, effort.most)
    return _Frame(line._replace(beyond=beyond), index, floor, effort.digits)


def _solve_along(
    search: _Search,
    frame: _Frame,
    repeats: np.ndarray,
    epsilon: float,
    log_delta: float,
) -> Answers:
    """Return the epsilons at delta, and errors where the line is good for them."""
    line = frame.line
    logs = line.logs(repeats)
    guesses = epsilon * (repeats / repeats[0]) ** 0.6
    epsilons, now = _newton(line, repeats, logs, guesses, log_delta)
    log_deltas = np.full(repeats.size, log_delta)
    good = np.isfinite(now.log) & (np.abs(now.log - log_delta) < 1e-6)
    good &= _covers(search, frame, repeats, logs, epsilons, log_deltas)
    errors = (now.error + 2 * math.exp(-_LEFT_OUT)) / -now.slope
    errors += np.abs((now.log - log_delta) / now.slope) + 4 * _ULP * np.abs(epsilons)
    return Answers(epsilons, np.where(good, errors, np.nan), line.log_rest.size)


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


def _covers(
    search: _Search,
    frame: _Frame,
    repeats: np.ndarray,
    logs: np.ndarray,
    epsilons: np.ndarray,
    log_deltas: np.ndarray,
) -> np.ndarray:
    """Tell for which of the repeats what the line leaves out is nothing."""
    line, table = frame.line, search.table
    chernoff = table.chernoff(repeats, epsilons, log_deltas)
    good = np.isfinite(epsilons + log_deltas)
    good &= (
        table.aliases(chernoff, frame.index, frame.digits) <= 2 * math.pi / line.step
    )
    if frame.floor is not None:
        bounds = frame.floor.chernoff(repeats, epsilons, log_deltas)
        good &= bounds.min(axis=1) < 1 - frame.digits
    if search.region.ceiling is not None:
        good &= epsilons + search.depth(repeats) <= search.region.ceiling
    last = logs[:, -8:].real.max(axis=1) - line.tilt * epsilons
    return good & (last + math.log(line.step / math.pi) < log_deltas - frame.digits)
