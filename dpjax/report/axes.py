"""Where numbers lie on a chart: round ticks, and positions between them."""

import dataclasses
import math
from collections.abc import Sequence

# The axis line, its numbers and the word under them need this much, in SVG units.
TOP, BOTTOM = 12.0, 36.0

_MAX_TICKS = 9

Values = Sequence[float | None]
"""One number a step; None where there is none to draw."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """A linear or logarithmic axis from `low` to `high`, with round `ticks`."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def share(self, value: float) -> float:
        """Return where `value` lies, 0 at `low` and 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclasses.dataclass(frozen=True)
class Axes:
    """The frame of a chart, in the units of its SVG view box."""

    x_scale: Scale
    y_scale: Scale
    left: float
    right: float
    height: float

    @property
    def bottom(self) -> float:
        """Return the vertical position of the horizontal axis."""
        return self.height - BOTTOM

    def x(self, value: float) -> float:
        """Return the horizontal position of `value`."""
        share = self.x_scale.share(value)
        return round(self.left + (self.right - self.left) * share, 1)

    def y(self, value: float) -> float:
        """Return the vertical position of `value`, larger values higher up."""
        share = self.y_scale.share(value)
        return round(self.bottom - (self.bottom - TOP) * share, 1)


def linear_scale(low: float, high: float, *, intervals: int = 4) -> Scale:
    """Return an axis that ends on round numbers around [low, high].

    >>> linear_scale(0.13, 0.91).ticks
    (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """
    if low == high:
        low, high = (0.0, 1.0) if low == 0 else sorted((0.0, 2 * low))
    step = _round_step((high - low) / intervals)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    ticks = tuple(_clean(k * step, step) for k in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def step_scale(last_step: float) -> Scale:
    """Return an axis of whole numbers from 0 to exactly `last_step`.

    >>> step_scale(120)
    Scale(low=0.0, high=120.0, ticks=(0.0, 50.0, 100.0), log=False)
    """
    last_step = max(float(last_step), 1.0)
    step = max(1.0, _round_step(last_step / 4))
    step = 2.0 if step == 2.5 else step
    ticks = tuple(k * step for k in range(int(last_step / step) + 1))
    return Scale(0.0, last_step, ticks)


def span_scale(low: float, high: float) -> Scale:
    """Return an axis from exactly `low` to exactly `high`, with round ticks between.

    >>> span_scale(-0.7, 0.7).ticks
    (-0.5, 0.0, 0.5)
    """
    if not low < high:
        return linear_scale(low, high)
    ticks = linear_scale(low, high, intervals=3).ticks
    return Scale(low, high, tuple(tick for tick in ticks if low <= tick <= high))


def log_scale(low: float, high: float) -> Scale:
    """Return a logarithmic axis around [low, high], both above zero.

    >>> log_scale(0.3, 7.0).ticks
    (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 5), (1,)):
        marks = [f * 10.0**k for k in range(first, last + 2) for f in factors]
        start = max(mark for mark in marks if mark <= low * (1 + 1e-9))
        end = min(mark for mark in marks if mark >= high * (1 - 1e-9) and mark > start)
        ticks = [mark for mark in marks if start <= mark <= end]
        if len(ticks) <= _MAX_TICKS:
            break
    stride = math.ceil(len(ticks) / _MAX_TICKS)
    return Scale(start, end, tuple(ticks[::stride]), log=True)


def path(frame: Axes, steps: Sequence[float], values: Values) -> str:
    """Return SVG path data; a point without neighbours becomes a dot of no length."""
    parts: list[str] = []
    connected = False
    for step, value in zip(steps, values, strict=True):
        if value is not None:
            x, y = frame.x(step), frame.y(value)
            parts.append(f"L{x:g} {y:g}" if connected else f"M{x:g} {y:g}h0")
        connected = value is not None
    return "".join(parts)


def area(frame: Axes, steps: Sequence[float], lows: Values, highs: Values) -> str:
    """Return SVG path data, one closed shape a stretch without gaps."""
    shapes: list[list[tuple[float, float, float]]] = [[]]
    for step, low, high in zip(steps, lows, highs, strict=True):
        if low is None or high is None:
            shapes.append([])
        else:
            shapes[-1].append((frame.x(step), frame.y(low), frame.y(high)))
    paths = []
    for shape in filter(None, shapes):
        outline = [(x, high) for x, _, high in shape]
        outline += [(x, low) for x, low, _ in reversed(shape)]
        paths.append("M" + "L".join(f"{x:g} {y:g}" for x, y in outline) + "Z")
    return "".join(paths)


def _round_step(step: float) -> float:
    """Return 1, 2, 2.5, 5 or 10 times a power of ten, the nearest at or above."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(f for f in (1, 2, 2.5, 5, 10) if f * power >= step * (1 - 1e-9)) * power


def _clean(value: float, step: float) -> float:
    """Drop the rounding noise of a tick: 0.30000000000000004 is 0.3."""
    return round(value, max(0, 2 - math.floor(math.log10(step))))
