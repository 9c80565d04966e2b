"""Which charts a curvature study has, and what each shows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dpjax.report import axes, charts, heatmap, page, words
from dpjax.report.folder import as_number
from dpjax.report.study import Curve, Study

SERIES = {"sharpness": "Sharpness", "trace": "Trace of the Hessian"}
"""The metrics that --during_training records, and what they are called."""

_STYLES = ("one", "two")
_FLOOR = 0.1
_TABLE_ROWS = 21


def names(studies: Sequence[Study]) -> list[str]:
    """Return what to call each run: by its privacy, else by its folder."""
    found = [study.name for study in studies]
    if len(set(found)) == len(found):
        return found
    return [study.run.path.absolute().name for study in studies]


def spectrum(study: Study, index: int, name: str) -> charts.Drawing | None:
    """Draw how many eigenvalues lie where, on a logarithmic axis."""
    curve = study.spectrum
    if len(curve.x) < 2:
        return None
    values = [max(v, _FLOOR) if charts.is_drawable(v) else None for v in curve.y]
    return charts.draw(
        charts.Chart(
            key=f"spectrum-{index}",
            title=f"Eigenvalues, {name}",
            steps=curve.x,
            lines=(charts.Line(values, style=_STYLES[index], is_end_told=False),),
            include=(_FLOOR, 10.0),
            log=True,
            step_word="eigenvalue",
            step_scale=axes.span_scale(curve.x[0], curve.x[-1]),
        )
    )


def slices(studies: Sequence[Study]) -> list[charts.Drawing]:
    """Draw the loss along the sharpest and along a random direction."""
    return [
        drawing
        for key, title in (
            ("slice_top", "Loss along the sharpest direction"),
            ("slice_random", "Loss along a random direction"),
        )
        if (drawing := _slice(studies, key, title)) is not None
    ]


def _slice(studies: Sequence[Study], key: str, title: str) -> charts.Drawing | None:
    curves: list[Curve] = [getattr(study, key) for study in studies]
    along = curves[0].x
    lines = tuple(
        charts.Line(curve.y, name, style)
        for curve, name, style in zip(curves, names(studies), _STYLES, strict=False)
        if curve.x == along
    )
    if len(along) < 2:
        return None
    return charts.draw(
        charts.Chart(
            key=key.replace("_", "-"),
            title=title,
            steps=along,
            lines=lines,
            include=(0.0,),
            step_word="offset",
            step_scale=axes.span_scale(along[0], along[-1]),
        )
    )


def plane(study: Study, index: int, name: str) -> heatmap.Heatmap | None:
    """Draw the loss over the plane of both directions."""
    return heatmap.draw(
        f"plane-{index}",
        f"Loss over both directions, {name}",
        ("sharpest", "random"),
        study.plane.x,
        study.plane.y,
        study.plane.values,
    )


def series(studies: Sequence[Study]) -> list[charts.Drawing]:
    """Draw what was recorded during training, both runs in one chart where they fit."""
    found = []
    for key, title in SERIES.items():
        recorded = [_recorded(study, key) for study in studies]
        if len({tuple(curve.x) for curve in recorded if curve.x}) == 1:
            found.append(_series_chart(key, title, studies, recorded))
            continue
        for index, curve in enumerate(recorded):
            label = f"{title}, {names(studies)[index]}"
            one = [Curve([], [])] * index + [curve]
            found.append(_series_chart(f"{key}-{index}", label, studies, one))
    return [drawing for drawing in found if drawing is not None]


def _recorded(study: Study, key: str) -> Curve:
    points = [
        (line["step"], as_number(line["public"].get(key))) for line in _lines(study)
    ]
    kept = [(step, value) for step, value in points if value is not None]
    return Curve([float(step) for step, _ in kept], [value for _, value in kept])


def _lines(study: Study) -> list[dict[str, Any]]:
    return study.run.lines


def _series_chart(
    key: str, title: str, studies: Sequence[Study], curves: Sequence[Curve]
) -> charts.Drawing | None:
    steps = next((curve.x for curve in curves if curve.x), [])
    if not steps:
        return None
    lines = tuple(
        charts.Line(curve.y, name, style)
        for curve, name, style in zip(curves, names(studies), _STYLES, strict=False)
        if curve.x
    )
    chart = charts.Chart(
        key=f"series-{key}", title=title, steps=steps, lines=lines, include=(0.0,)
    )
    return charts.draw(chart)


def series_table(studies: Sequence[Study]) -> dict[str, Any]:
    """Return the numbers behind the series, with the standard errors of the trace."""
    rows = []
    for study, name in zip(studies, names(studies), strict=True):
        lines = [line for line in _lines(study) if "sharpness" in line["public"]]
        for line in _thinned(lines):
            cells = (line["public"].get(k) for k in (*SERIES, "trace_stderr"))
            shown = [_cell(as_number(cell)) for cell in cells]
            rows.append([name, f"{line['step']:,}", *shown])
    return {"head": ["Run", "Step", *SERIES.values(), "± of the trace"], "rows": rows}


def slice_table(studies: Sequence[Study]) -> dict[str, Any]:
    """Return the numbers behind the slices along one direction."""
    head, columns = [], []
    for key, direction in (("slice_top", "sharpest"), ("slice_random", "random")):
        head.append(f"Offset, {direction}")
        columns.append([_cell(x) for x in getattr(studies[0], key).x])
        for study, name in zip(studies, names(studies), strict=True):
            head.append(f"Loss, {name}")
            columns.append([_cell(value) for value in getattr(study, key).y])
    return {"head": head, "rows": _thinned(list(zip(*columns, strict=False)))}


def spectrum_table(studies: Sequence[Study]) -> dict[str, Any]:
    """Return the outermost eigenvalues of each run with their residuals."""
    rows = []
    for study, name in zip(studies, names(studies), strict=True):
        for end, pairs in (("largest", study.top), ("smallest", study.bottom)):
            for value, residual in zip(pairs.values, pairs.residuals, strict=True):
                row = [name, end, _cell(value), page.number(residual, 2)]
                rows.append(row)
    return {"head": ["Run", "End", "Eigenvalue", "Off by at most"], "rows": rows}


def plane_table(study: Study, name: str) -> dict[str, Any]:
    """Return the numbers behind a plane; the first column is the random direction."""
    head = [f"{name}", *(page.number(x, 2) for x in study.plane.x)]
    rows = [
        [page.number(y, 2), *(_cell(row[j]) for row in study.plane.values)]
        for j, y in reversed(list(enumerate(study.plane.y)))
    ]
    return {"head": head, "rows": rows}


def method(study: Study) -> list[words.Row]:
    """Return how the numbers were computed."""
    return [words.Row(page.label(k), words.plain(v)) for k, v in study.method.items()]


def _cell(value: float | None) -> str:
    return "" if value is None else page.number(value)


def _thinned(rows: list[Any]) -> list[Any]:
    kept = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _TABLE_ROWS)).round())
    return [rows[int(index)] for index in kept]
