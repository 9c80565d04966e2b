"""Line charts as plain geometry, which the templates draw as inline SVG.

Drawn here rather than by a plotting library: the colours follow the page (light, dark,
print), text stays text, names cannot clash, and a chart is a few kilobytes.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TypeGuard

import numpy as np

from dpjax.report import axes, marks, page
from dpjax.report.marks import Mark

WIDTH, HEIGHT = 400.0, 232.0
_MAX_POINTS = 300
_LARGEST = 1e100


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve with `label` at its end; `style` is a class of the style sheet.

    Where the last value says nothing of its own, `is_end_told` leaves it out.
    """

    values: axes.Values
    label: str = ""
    style: str = "one"
    is_end_told: bool = True


@dataclasses.dataclass(frozen=True)
class Band:
    """The area between two curves; `labels` stand at the ends of low and high."""

    low: axes.Values
    high: axes.Values
    labels: tuple[str, str]
    style: str = "outer"


@dataclasses.dataclass(frozen=True)
class Level:
    """A dashed line at a number worth comparing with; `label` stands at its end."""

    value: float
    label: str


@dataclasses.dataclass(frozen=True)
class Chart:
    """What one chart shows.

    Attributes:
      key: unique on the page; letters, digits and hyphens.
      title: the caption.
      steps: what the values of every line and band belong to, increasing.
      step_word: what the steps are, under the axis.
      step_scale: the horizontal axis; None is one of whole numbers from 0.
      lines: curves over steps.
      bands: areas over steps.
      levels: horizontal lines.
      form: turns a value into the text of a tick or a label.
      include: values that the vertical axis must reach, such as 0.
      log: whether the vertical axis is logarithmic where every value is > 0.
    """

    key: str
    title: str
    steps: Sequence[float]
    lines: tuple[Line, ...]
    bands: tuple[Band, ...] = ()
    levels: tuple[Level, ...] = ()
    form: Callable[[float], str] = page.number_short
    include: tuple[float, ...] = ()
    log: bool = False
    step_word: str = "step"
    step_scale: axes.Scale | None = None


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A chart in the units of its SVG view box."""

    chart: Chart
    description: str
    frame: axes.Axes
    x_ticks: list[Mark]
    x_label: Mark
    y_ticks: list[Mark]
    levels: list[Mark]
    areas: list[tuple[str, str]]
    paths: list[tuple[str, str]]
    dots: list[Mark]
    labels: list[Mark]
    thinned: str
    width: float = WIDTH
    height: float = HEIGHT


def draw(chart: Chart) -> Drawing | None:
    """Lay a chart out, or return None where its lines have no finite value."""
    count = len(chart.steps)
    kept = np.unique(np.linspace(0, count - 1, min(count, _MAX_POINTS)).round())
    thin = _keep(chart, [int(index) for index in kept])
    if not any(is_drawable(v) for line in thin.lines for v in line.values):
        return None
    frame = _frame(thin)
    x_ticks = marks.step_ticks(frame)
    return Drawing(
        chart=chart,
        description=_describe(chart),
        frame=frame,
        x_ticks=x_ticks,
        x_label=marks.step_word(frame, x_ticks[-1], chart.step_word),
        y_ticks=marks.value_ticks(frame, chart.form),
        levels=[Mark(frame.left, frame.y(v.value), v.label) for v in chart.levels],
        areas=[
            (b.style, axes.area(frame, thin.steps, b.low, b.high)) for b in thin.bands
        ],
        paths=[(c.style, axes.path(frame, thin.steps, c.values)) for c in thin.lines],
        dots=_dots(thin, frame),
        labels=_labels(thin, frame),
        thinned=f"{len(kept)} of {count:,} logged steps drawn." * (len(kept) < count),
    )


def is_drawable(value: float | None) -> TypeGuard[float]:
    """Tell whether a value has a place on a chart: finite and not absurdly large."""
    return value is not None and math.isfinite(value) and abs(value) < _LARGEST


def _keep(chart: Chart, kept: list[int]) -> Chart:
    def pick(values: axes.Values) -> list[float | None]:
        chosen = [values[index] for index in kept]
        return [value if is_drawable(value) else None for value in chosen]

    return dataclasses.replace(
        chart,
        steps=[chart.steps[index] for index in kept],
        lines=tuple(
            dataclasses.replace(line, values=pick(line.values)) for line in chart.lines
        ),
        bands=tuple(
            dataclasses.replace(band, low=pick(band.low), high=pick(band.high))
            for band in chart.bands
        ),
    )


def _frame(chart: Chart) -> axes.Axes:
    curves = [line.values for line in chart.lines]
    curves += [side for band in chart.bands for side in (band.low, band.high)]
    values = [*chart.include, *(level.value for level in chart.levels)]
    values += [v for curve in curves for v in curve if v is not None]
    scale = axes.log_scale if _is_log(chart, values) else axes.linear_scale
    y_scale = scale(min(values), max(values))
    tick_length = max(len(chart.form(tick)) for tick in y_scale.ticks)
    words = [chart.step_word, *(text for _, _, text, _ in _ends(chart))]
    label_length = max(map(len, words))
    return axes.Axes(
        x_scale=chart.step_scale or axes.step_scale(max(chart.steps)),
        y_scale=y_scale,
        left=min(9 + marks.PLAIN * tick_length, WIDTH / 3),
        right=max(WIDTH - 10 - marks.BOLD * label_length, WIDTH / 2),
        height=HEIGHT,
    )


def _is_log(chart: Chart, values: list[float]) -> bool:
    return chart.log and min(values) > 0


def _last(chart: Chart, values: axes.Values) -> tuple[float, float] | None:
    """Return step and value of the last point that is drawn."""
    points = [(s, v) for s, v in zip(chart.steps, values, strict=True) if v is not None]
    return points[-1] if points else None


def _ends(chart: Chart) -> list[tuple[float, float, str, str]]:
    """Return (step, value, label, style) of whatever has a label at its end."""
    ends = [(chart.steps[-1], lv.value, lv.label, "level") for lv in chart.levels]
    for line in chart.lines:
        if end := _last(chart, line.values):
            value = chart.form(end[1]) if line.is_end_told else ""
            ends.append((*end, f"{line.label} {value}".strip(), line.style))
    for band in chart.bands:
        for values, text in zip((band.low, band.high), band.labels, strict=True):
            if end := _last(chart, values):
                ends.append((*end, text, "plain"))
    return ends


def _labels(chart: Chart, frame: axes.Axes) -> list[Mark]:
    ends = [end for end in _ends(chart) if end[2]]
    placed = [Mark(frame.x(x) + 8, frame.y(y), *rest) for x, y, *rest in ends]
    return marks.spread(placed, frame)


def _dots(chart: Chart, frame: axes.Axes) -> list[Mark]:
    return [
        Mark(frame.x(end[0]), frame.y(end[1]), "", line.style)
        for line in chart.lines
        if line.is_end_told and (end := _last(chart, line.values))
    ]


def _describe(chart: Chart) -> str:
    """Say in words what the lines do, for a reader who cannot see them."""
    sentences = []
    for line in chart.lines:
        points = [
            (step, value)
            for step, value in zip(chart.steps, line.values, strict=True)
            if is_drawable(value)
        ]
        if points:
            (first, start), (last, end) = points[0], points[-1]
            sentences.append(
                f"{line.label or chart.title}: {chart.form(start)} at "
                f"{chart.step_word} {page.number(first)}, {chart.form(end)} at "
                f"{chart.step_word} {page.number(last)}."
            )
    return " ".join(sentences)
