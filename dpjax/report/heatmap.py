"""A function of two variables as shaded cells, drawn by the templates as SVG."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from dpjax.report import axes, charts, marks, page
from dpjax.report.marks import Mark

WIDTH, HEIGHT = 400.0, 300.0
_LEVELS = 8
_LEGEND = 132.0  # the longest labels that `number_short` makes
_SWATCH = 14.0


@dataclasses.dataclass(frozen=True)
class Level:
    """The cells of one shade, and its place in the legend.

    Attributes:
      opacity: of the shade, in (0, 1].
      path: SVG path data of the cells.
      swatch: SVG path data of the legend's square.
      label: the values that it stands for.
    """

    opacity: float
    path: str
    swatch: str
    label: Mark


@dataclasses.dataclass(frozen=True)
class Heatmap:
    """A map in the units of its SVG view box."""

    key: str
    title: str
    description: str
    frame: axes.Axes
    x_ticks: list[Mark]
    y_ticks: list[Mark]
    x_label: Mark
    y_label: Mark
    levels: list[Level]
    centre: tuple[float, float]
    width: float = WIDTH
    height: float = HEIGHT


def draw(
    key: str,
    title: str,
    words: tuple[str, str],
    x: Sequence[float],
    y: Sequence[float],
    values: Sequence[Sequence[float]],
) -> Heatmap | None:
    """Lay a map out, or return None where no value is finite.

    Args:
      key: unique on the page; letters, digits and hyphens.
      title: the caption.
      words: what lies along the horizontal and the vertical axis.
      x: coordinates of the columns, evenly spaced.
      y: coordinates of the rows, evenly spaced.
      values: `values[i][j]` lies at `x[i]`, `y[j]`.
    """
    finite = [v for row in values for v in row if charts.is_drawable(v)]
    if not finite or len(x) < 2 or len(y) < 2:
        return None
    frame = axes.Axes(_scale(x), _scale(y), 46, WIDTH - _LEGEND, HEIGHT)
    least, middle = min(finite), values[len(x) // 2][len(y) // 2]
    return Heatmap(
        key=key,
        title=title,
        description=f"{page.number_short(middle)} in the middle, from "
        f"{page.number_short(least)} to {page.number_short(max(finite))}.",
        frame=frame,
        x_ticks=marks.step_ticks(frame),
        y_ticks=marks.value_ticks(frame, page.number_short),
        x_label=Mark(frame.right + 8, frame.bottom + 16, words[0]),
        y_label=Mark(frame.left - 7, 6, words[1]),
        levels=_levels(frame, x, y, values, _edges(finite)),
        centre=(frame.x(0.0), frame.y(0.0)),
    )


def _scale(coordinates: Sequence[float]) -> axes.Scale:
    """Return an axis that holds whole cells around evenly spaced coordinates."""
    half = (coordinates[1] - coordinates[0]) / 2
    return axes.span_scale(coordinates[0] - half, coordinates[-1] + half)


def _edges(finite: Sequence[float]) -> np.ndarray:
    """Return what separates the shades: even ratios where every value is > 0."""
    low, high = min(finite), max(finite)
    if low > 0 and high > 2 * low:
        return np.geomspace(low, high, _LEVELS + 1)
    return np.linspace(low, high if high > low else low + 1, _LEVELS + 1)


def _levels(
    frame: axes.Axes,
    x: Sequence[float],
    y: Sequence[float],
    values: Sequence[Sequence[float]],
    edges: np.ndarray,
) -> list[Level]:
    cells: list[list[str]] = [[] for _ in range(_LEVELS)]
    wide = round((frame.right - frame.left) / len(x), 2)
    tall = round((frame.bottom - axes.TOP) / len(y), 2)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if charts.is_drawable(value):
                left = round(frame.x(x[i]) - wide / 2, 1)
                top = round(frame.y(y[j]) - tall / 2, 1)
                index = int(np.searchsorted(edges, value, side="right")) - 1
                cell = f"M{left:g} {top:g}h{wide:g}v{tall:g}h-{wide:g}z"
                cells[min(max(index, 0), _LEVELS - 1)].append(cell)
    return [_level(frame, k, "".join(cells[k]), edges) for k in range(_LEVELS)]


def _level(frame: axes.Axes, index: int, path: str, edges: np.ndarray) -> Level:
    """Return one shade; the legend has the least values, the lightest, at its foot."""
    left = frame.right + 14
    top = frame.bottom - (index + 1) * (_SWATCH + 6)
    low, high = (page.number_short(float(edge)) for edge in edges[index : index + 2])
    return Level(
        opacity=round(math.pow((index + 1) / _LEVELS, 1.2), 2),
        path=path,
        swatch=f"M{left:g} {top:g}h{_SWATCH:g}v{_SWATCH:g}h-{_SWATCH:g}z",
        label=Mark(left + _SWATCH + 6, round(top + _SWATCH / 2, 1), f"{low} to {high}"),
    )
