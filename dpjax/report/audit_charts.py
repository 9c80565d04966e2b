"""Which charts an audit has, and what each shows."""

import math

import numpy as np

from dpjax.auditing import AuditReport
from dpjax.report import axes, bars, charts, page

METHODS = {
    "fdp": "f-DP, the mechanism's own curve",
    "fdp_gaussian": "f-DP, Gaussian curves",
    "dp": "(epsilon, delta)-DP",
}
"""The methods of bounding, and what they are called."""

_NUM_RATES = 100
_MOST_BINS, _LEAST_BINS = 40, 8


def bounds(report: AuditReport) -> bars.Bars | None:
    """Draw each method's bound against what is promised; None if that is infinite."""
    promised = float(report.theoretical)
    if not charts.is_drawable(promised):
        return None
    rows = [
        (words, report.bounds[key], "one" if key == report.method else "plain")
        for key, words in METHODS.items()
        if key in report.bounds
    ]
    label = f"promised {page.number_up(promised)}"
    return bars.draw("bounds", "Epsilon is at least", rows, (promised, label))


def roc(report: AuditReport) -> charts.Drawing | None:
    """Draw the ROC curve on log axes, and what the promise allows at the most."""
    false, true = report.roc
    least = 1 / (2 * max(len(report.in_scores), len(report.out_scores)))
    rates = np.geomspace(least, 1, _NUM_RATES)
    places = np.searchsorted(false, rates * (1 + 1e-9), side="right") - 1
    reached = [float(rate) if rate > 0 else None for rate in true[places]]
    lines = (
        charts.Line(reached, "reached", "one", is_end_told=False),
        charts.Line(rates.tolist(), "guessing", "three", is_end_told=False),
        charts.Line(
            [allowed(report, r) for r in rates], "allowed", "two", is_end_told=False
        ),
    )
    return charts.draw(
        charts.Chart(
            key="roc",
            title="True positives against false positives",
            steps=rates.tolist(),
            lines=lines,
            log=True,
            step_word="false positives",
            step_scale=axes.log_scale(least, 1.0),
        )
    )


def allowed(report: AuditReport, false_positive_rate: float) -> float:
    """Return the largest TPR that the promise, (epsilon, delta), allows at an FPR."""
    epsilon, delta = min(float(report.theoretical), 700.0), report.delta
    left = delta + math.exp(epsilon) * false_positive_rate
    right = 1 - math.exp(-epsilon) * (1 - delta - false_positive_rate)
    return min(1.0, left, right)


def histogram(report: AuditReport) -> charts.Drawing | None:
    """Draw how the scores of canaries in and out are spread."""
    scores = np.asarray(report.scores)
    low, high = np.quantile(scores, [0.001, 0.999])
    if not low < high:
        return None
    bins = int(np.clip(math.sqrt(scores.size), _LEAST_BINS, _MOST_BINS))
    edges = np.linspace(low, high, bins + 1)
    counts = {
        name: np.histogram(np.clip(group, low, high), edges)[0]
        for name, group in (("in", report.in_scores), ("out", report.out_scores))
    }
    return charts.draw(
        charts.Chart(
            key="scores",
            title="Scores of canaries that were in, and left out",
            steps=np.repeat(edges, 2)[1:-1].tolist(),
            lines=tuple(
                charts.Line(_stairs(counts[name]), name, style, is_end_told=False)
                for name, style in (("in", "two"), ("out", "one"))
            ),
            include=(0.0,),
            step_word="score",
            step_scale=axes.span_scale(float(low), float(high)),
        )
    )


def _stairs(counts: np.ndarray) -> list[float]:
    return np.repeat(counts, 2).astype(float).tolist()
