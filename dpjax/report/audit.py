"""The page of an audit: what the canaries say about a promise."""

import pathlib
from typing import Any

from dpjax.auditing import AuditReport, auroc, tpr_at_fpr
from dpjax.report import audit_charts, page, words

_RATES = (0.001, 0.01, 0.1)

_SCORES = {
    ("gradient", "gradient"): (
        "what was released along the canary's direction, summed over the steps, less "
        "what the data are expected to add; 1 is what a canary that is in adds"
    ),
    ("gradient", "displacement"): (
        "how far the parameters went against the canary's direction"
    ),
    ("example", "loss"): "minus the canary's loss at the end",
    ("example", "checkpoints"): "how far the canary's loss fell, over checkpoints",
    ("example", "gradient"): "how far the canary's gradients pushed the way gone",
}


def write_audit_report(
    path: str | pathlib.Path,
    report: AuditReport,
    *,
    title: str = "",
    per_example_scores: bool = False,
) -> pathlib.Path:
    """Write a page about an audit: one file that requests nothing.

    Args:
      path: the page; the report is written beside it, with the suffix .json.
      report: what the audit found.
      title: what was audited, such as data set and model.
      per_example_scores: whether the numbers beside the page hold the score of each
        canary where canaries are made of private examples. Without it they hold ranks
        alone, without whose they are.

    Returns:
      The path of the page. Only its owner may read it, since the report holds the key
      of the noise.

    Raises:
      ReportError: a file cannot be written.

    Guarantee:
      Every value is escaped; the page is replaced whole or not at all. The lower bound
      is rounded down, and what is promised up. No value is that of one private example
      unless `per_example_scores` asks for them: the page holds counts and rates.
    """
    path = pathlib.Path(path)
    numbers = report.to_json(per_example_scores=per_example_scores)
    is_ranked = report.is_of_private_examples and not per_example_scores
    context = _context(report, title, path) | {"is_ranked": is_ranked}
    text = page.render("audit.html", **context)
    page.write_private(path.with_suffix(".json"), numbers)
    return page.write_private(path, text)


def _context(report: AuditReport, title: str, path: pathlib.Path) -> dict[str, Any]:
    drawn = (audit_charts.roc(report), audit_charts.histogram(report))
    return {
        "report": report,
        "title": title or "Training run",
        "bound": page.number_down(float(report.lower_bound)),
        "promised": page.number_up(float(report.theoretical)),
        "delta": page.number_up(report.delta),
        "confidence": page.percent_short(1 - report.significance),
        "kind": _kind(report),
        "facts": _facts(report),
        "bounds": audit_charts.bounds(report),
        "bound_rows": _bound_rows(report),
        "charts": [drawing for drawing in drawn if drawing is not None],
        "score": _SCORES.get((report.canaries["family"], report.score), report.score),
        "rates": _rates(report),
        "constants": words.constants(
            {"delta": report.delta, "mechanism": report.mechanism}
        ),
        "canaries": words.rows(report.canaries),
        "settings": words.rows(report.settings),
        "versions": words.rows(report.versions),
        "numbers": path.with_suffix(".json").name,
    }


def _kind(report: AuditReport) -> str:
    canaries = report.canaries
    which = canaries.get("direction") or canaries.get("kind")
    return f"{canaries['count']:,} {words.plain(which)} {canaries['family']} canaries"


def _facts(report: AuditReport) -> list[words.Row]:
    area = auroc(report.in_scores, report.out_scores)
    rows = [
        ("In, left out", f"{len(report.in_scores):,}, {len(report.out_scores):,}"),
        ("Coins guessed", f"{report.num_guesses:,}"),
        ("Guessed right", f"{report.num_correct:,}"),
        ("Right by chance", f"{report.num_guesses / 2:,.0f}"),
        ("Area under ROC", f"{area.value:.3f} ± {area.high - area.value:.3f}"),
    ]
    return [words.Row(*row) for row in rows]


def _bound_rows(report: AuditReport) -> list[words.Row]:
    meanings = {
        "fdp": "Rests on the trade-off curves of this mechanism at all noises.",
        "fdp_gaussian": "Rests on a curve of Gaussian shape: for comparison alone.",
        "dp": "Rests on nothing but the coins.",
    }
    return [
        words.Row(
            audit_charts.METHODS[key] + " (the verdict's)" * (key == report.method),
            page.number_down(report.bounds[key]),
            meanings[key],
        )
        for key in audit_charts.METHODS
        if key in report.bounds
    ]


def _rates(report: AuditReport) -> dict[str, Any]:
    """Return the table of true positive rates at low false positive rates."""
    rows = []
    for rate in _RATES:
        found = tpr_at_fpr(report.in_scores, report.out_scores, rate)
        most = audit_charts.allowed(report, rate)
        shown = (found.value, found.low, found.high)
        rows.append(
            [
                page.percent_short(rate),
                *(page.percent(value) for value in shown),
                page.percent_up(most),
            ]
        )
    head = ["False positives", "True positives", "at least", "at most", "allowed"]
    return {"head": head, "rows": rows}
