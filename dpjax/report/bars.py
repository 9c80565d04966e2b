"""A few lower bounds as bars, against a level, drawn by the templates as SVG."""

import dataclasses
from collections.abc import Sequence

from dpjax.report import axes, marks, page
from dpjax.report.marks import Mark

WIDTH = 400.0
_ROW, _BAR = 42.0, 14.0


@dataclasses.dataclass(frozen=True)
class Bars:
    """Bars in the units of their SVG view box; `bars` are (style, path data)."""

    key: str
    title: str
    description: str
    frame: axes.Axes
    bars: list[tuple[str, str]]
    labels: list[Mark]
    x_ticks: list[Mark]
    level: Mark
    height: float
    width: float = WIDTH


def draw(
    key: str,
    title: str,
    rows: Sequence[tuple[str, float, str]],
    level: tuple[float, str],
) -> Bars:
    """Lay bars out.

    Args:
      key: unique on the page; letters, digits and hyphens.
      title: the caption.
      rows: (label, value >= 0, style) of each bar, one or more.
      level: a number to compare with, and its label.
    """
    scale = axes.linear_scale(0.0, max(level[0], *(value for _, value, _ in rows)))
    height = axes.TOP + 18 + _ROW * len(rows) + axes.BOTTOM
    frame = axes.Axes(scale, axes.linear_scale(0.0, 1.0), 2.0, WIDTH - 44, height)
    tops = [axes.TOP + 36 + _ROW * index for index in range(len(rows))]
    return Bars(
        key=key,
        title=title,
        description=" ".join(
            f"{label}: {page.number_down(value)}." for label, value, _ in rows
        )
        + f" {level[1]}.",
        frame=frame,
        bars=[
            (style, _bar(frame, value, top))
            for (_, value, style), top in zip(rows, tops, strict=True)
        ],
        labels=[
            mark
            for (label, value, style), top in zip(rows, tops, strict=True)
            for mark in _labels(frame, label, value, style, top)
        ],
        x_ticks=marks.step_ticks(frame),
        level=Mark(frame.x(level[0]), axes.TOP, level[1]),
        height=height,
    )


def _bar(frame: axes.Axes, value: float, top: float) -> str:
    return f"M{frame.left:g} {top:g}H{frame.x(value):g}v{_BAR:g}H{frame.left:g}Z"


def _labels(
    frame: axes.Axes, label: str, value: float, style: str, top: float
) -> list[Mark]:
    """Return the name above a bar, and the number behind it."""
    number = Mark(frame.x(value) + 6, top + _BAR / 2, page.number_down(value), style)
    return [Mark(frame.left, top - 8, label, "plain"), number]
