"""The page of a curvature study: what was measured, and what it suggests."""

import pathlib
from collections.abc import Sequence
from typing import Any

from dpjax import _check, _files
from dpjax.report import advice, curvature_charts, page, words
from dpjax.report.study import VERSION, Study

_LARGEST = 2


def write_curvature_report(
    path: str | pathlib.Path, studies: Sequence[Study]
) -> pathlib.Path:
    """Write a page about the curvature of one run, or of two side by side.

    Args:
      path: the page; its numbers are written beside it, with the suffix .json.
      studies: one or two; the first is what the page is about.

    Returns:
      The path of the page. Only its owner may read it.

    Raises:
      ReportError: a file cannot be written.
      ValueError: no study, or more than two.

    Guarantee:
      A page of studies on public examples is computed from the final parameters, the
      public metrics and public constants of its runs alone: it is as private as they
      are. It says so where an example was private. Every value is escaped; the page
      requests nothing and is replaced whole or not at all.
    """
    if not 1 <= len(studies) <= _LARGEST:
        _check.fail("one or two studies", "the number of studies", len(studies))
    path = pathlib.Path(path)
    content = {"version": VERSION, "studies": [s.as_object() for s in studies]}
    text = page.render("curvature.html", **_context(studies))
    numbers = _files.encode(content, indent=1).decode()
    page.write_private(path.with_suffix(".json"), numbers)
    return page.write_private(path, text)


def _context(studies: Sequence[Study]) -> dict[str, Any]:
    first, names = studies[0], curvature_charts.names(studies)
    pairs = list(zip(studies, names, strict=True))
    found = [curvature_charts.spectrum(s, i, n) for i, (s, n) in enumerate(pairs)]
    planes = [curvature_charts.plane(s, i, n) for i, (s, n) in enumerate(pairs)]
    return {
        "study": first,
        "title": _title(first),
        "verdict": _verdict(first),
        "facts": _facts(first),
        "is_public": all(study.is_public for study in studies),
        "unprotected": [n for s, n in pairs if not s.run.config["private"]],
        "overview": _overview(studies, names),
        "advice": _advice(pairs),
        "spectra": [drawing for drawing in found if drawing is not None],
        "spectrum_table": curvature_charts.spectrum_table(studies),
        "series": curvature_charts.series(studies),
        "series_table": curvature_charts.series_table(studies),
        "slices": curvature_charts.slices(studies),
        "slice_table": curvature_charts.slice_table(studies),
        "planes": [drawing for drawing in planes if drawing is not None],
        "plane_tables": [curvature_charts.plane_table(s, n) for s, n in pairs],
        "methods": [(n, curvature_charts.method(s)) for s, n in pairs],
    }


def _title(study: Study) -> str:
    settings = study.run.config["settings"]
    parts = [words.plain(settings[k]) for k in ("dataset", "model") if settings.get(k)]
    return " · ".join(parts) or study.run.path.absolute().name


def _verdict(study: Study) -> str:
    return (
        f"Sharpness {page.number_short(study.sharpness)}, trace "
        f"{page.number_short(study.trace)} ± {page.number(study.trace_stderr, 2)}"
    )


def _facts(study: Study) -> list[words.Row]:
    rows = [
        ("Examples", f"{study.num_examples:,}"),
        ("Parameters", f"{study.num_parameters:,}"),
        ("Their length", page.number(study.parameter_norm)),
        ("Mean loss", page.number(study.loss)),
    ]
    return [words.Row(*row) for row in rows]


def _overview(studies: Sequence[Study], names: Sequence[str]) -> dict[str, Any]:
    """Return the table of what was measured, one column a run."""
    rows = [
        ["Largest eigenvalue (sharpness)", *(_short(s.sharpness) for s in studies)],
        ["Smallest eigenvalue", *(_short(s.bottom.values[0]) for s in studies)],
        ["Trace", *(f"{_short(s.trace)} ± {_short(s.trace_stderr)}" for s in studies)],
        ["Mean eigenvalue", *(_short(s.trace / s.num_parameters) for s in studies)],
        ["Mean loss", *(_short(s.loss) for s in studies)],
        ["Length of the parameters", *(_short(s.parameter_norm) for s in studies)],
        ["Parameters", *(f"{s.num_parameters:,}" for s in studies)],
    ]
    return {"head": ["", *names], "rows": rows}


def _advice(
    pairs: Sequence[tuple[Study, str]],
) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Return, for each run, headings and the sentences below them."""
    parts = (
        ("Learning rate", advice.learning_rate),
        ("Clip norm", advice.clip_norm),
        ("Batch size", advice.batch_size),
    )
    return [
        (name, [(heading, sentences(study)) for heading, sentences in parts])
        for study, name in pairs
        if study.run.config["private"] or study is pairs[0][0]
    ]


def _short(value: float) -> str:
    return page.number_short(value)
