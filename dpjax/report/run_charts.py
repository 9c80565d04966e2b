"""Which charts a training run has, and what each shows."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dpjax.report import charts, page, words
from dpjax.report.folder import Run, as_number

_QUANTILES = "grad_norm_quantiles"
_NON_FINITE = "non_finite_examples"
_SHARES = ("accuracy", "fraction_clipped")
# Norms that spread over a larger factor than this are drawn on a logarithmic axis.
_LOG_FACTOR = 30
# An axis of fractions spans this at least, so that a flat curve looks flat.
_LEAST_SPAN = 0.1


def epsilon_chart(run: Run) -> charts.Drawing | None:
    """Draw each accountant's epsilon over the steps."""
    keys = [bound.key for line in run.lines for bound in words.bounds(line["epsilon"])]
    lines = []
    for style, key in zip(("one", "two", "three"), dict.fromkeys(keys), strict=False):
        values = [as_number(line["epsilon"].get(key)) for line in run.lines]
        lines.append(charts.Line(values, words.method(key), style))
    return charts.draw(
        charts.Chart(
            key="epsilon",
            title="Epsilon spent",
            steps=[line["step"] for line in run.lines],
            lines=tuple(lines),
            form=functools.partial(page.number_up, digits=3),
            include=(0.0,),
        )
    )


def public_charts(run: Run) -> list[charts.Drawing]:
    """Draw every metric that was taken on public data."""
    keys = sorted(_keys(run, "public"), key=lambda key: not is_share(key))
    return _drawn(_scalar_chart(run, "public", key) for key in keys)


def private_charts(run: Run) -> list[charts.Drawing]:
    """Draw the raw statistics of private data, gradient norms first."""
    hidden = {_QUANTILES}
    if not any(line["not_private"].get(_NON_FINITE) for line in run.lines):
        hidden.add(_NON_FINITE)
    keys = [key for key in _keys(run, "not_private") if key not in hidden]
    keys.sort(key=lambda key: key != "fraction_clipped")
    scalars = [_scalar_chart(run, "not_private", key) for key in keys]
    return _drawn([_quantile_chart(run), *scalars])


def is_share(key: str) -> bool:
    """Tell whether a metric is a fraction of a whole, to be shown in percent."""
    return key.endswith(_SHARES)


def form(key: str, value: float) -> str:
    """Write a metric's value."""
    return page.percent_short(value) if is_share(key) else page.number_short(value)


def _drawn(wanted: Iterable[charts.Chart]) -> list[charts.Drawing]:
    drawings = [charts.draw(chart) for chart in wanted]
    return [drawing for drawing in drawings if drawing is not None]


def _keys(run: Run, part: str) -> list[str]:
    """Return the names of a part of the metrics in the order they appear."""
    return list(dict.fromkeys(key for line in run.lines for key in line[part]))


def _scalar_chart(run: Run, part: str, key: str) -> charts.Chart:
    lines = [line for line in run.lines if as_number(line[part].get(key)) is not None]
    values = [as_number(line[part][key]) for line in lines]
    levels, include = _surroundings(run, key, values)
    return charts.Chart(
        # The name of a metric is free text, its place in the order is not.
        key=f"{part.replace('_', '-')}-{_keys(run, part).index(key)}",
        title=page.label(key),
        steps=[line["step"] for line in lines],
        lines=(charts.Line(values),),
        levels=levels,
        form=functools.partial(form, key),
        include=include,
    )


def _surroundings(
    run: Run, key: str, values: Sequence[float | None]
) -> tuple[tuple[charts.Level, ...], tuple[float, ...]]:
    """Return the levels that a metric is compared with, and what its axis includes."""
    if key == "batch_size":
        return _levels(run, "expected_batch_size", "expected"), ()
    if key == "fraction_clipped":
        return (), (0.0, 1.0)
    if not is_share(key):
        return (), (0.0,)
    largest = max((v for v in values if charts.is_drawable(v)), default=1.0)
    return (), (max(0.0, largest - _LEAST_SPAN),)


def _levels(run: Run, key: str, name: str) -> tuple[charts.Level, ...]:
    value = as_number(run.config["mechanism"].get(key))
    if not charts.is_drawable(value):
        return ()
    return (charts.Level(value, f"{name} {page.number(value)}"),)


def _quantile_chart(run: Run) -> charts.Chart:
    lines = [line for line in run.lines if line["not_private"].get(_QUANTILES)]
    tables = [line["not_private"][_QUANTILES] for line in lines]
    order = _quantile_order(tables)
    curves = [[as_number(table.get(key)) for table in tables] for key in order]
    names = [_quantile_name(float(key)) for key in order]
    half = len(order) // 2
    styles = ["outer"] * (half - 1) + ["inner"] if half > 1 else ["inner"] * half
    bands = tuple(
        charts.Band(curves[i], curves[-1 - i], (names[i], names[-1 - i]), styles[i])
        for i in range(half)
    )
    middle = (charts.Line(curves[half], names[half]),) if len(order) % 2 else ()
    return charts.Chart(
        key="gradient-norm",
        title="Gradient norms of single examples",
        steps=[line["step"] for line in lines],
        lines=middle,
        bands=bands,
        levels=_levels(run, "l2_norm_clip", "clip norm"),
        include=() if _is_wide(curves) else (0.0,),
        log=_is_wide(curves),
    )


def _quantile_order(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the quantiles' names that are numbers, least first."""
    keys = dict.fromkeys(key for table in tables for key in table)
    return sorted(filter(_is_quantile, keys), key=float)


def _is_quantile(key: str) -> bool:
    try:
        return 0 <= float(key) <= 1
    except ValueError:
        return False


def _quantile_name(quantile: float) -> str:
    names = {0.0: "least", 0.5: "median", 1.0: "largest"}
    return names.get(quantile, page.percent_short(quantile))


def _is_wide(curves: Sequence[Sequence[float | None]]) -> bool:
    """Tell whether all norms are positive and spread over a large factor."""
    values = [v for curve in curves for v in curve if charts.is_drawable(v)]
    logs = [math.log(v) for v in values if v > 0]
    if not logs or len(logs) < len(values):
        return False
    return max(logs) - min(logs) > math.log(_LOG_FACTOR)
