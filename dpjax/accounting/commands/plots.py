"""Pictures of what privacy costs. They need Matplotlib, from the extra `train`."""

import io
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from dpjax import _files
from dpjax.accounting import figures
from dpjax.accounting.ledgers.budget import Budget
from dpjax.accounting.ledgers.summary import Spending
from dpjax.accounting.tradeoff import TradeOffCurve

try:
    from matplotlib.figure import Figure
except ImportError:  # the extra `train` is not installed
    Figure = None  # type: ignore[assignment,misc]  # stands for the class

_COLOURS = {"exact": "#1b6ca8", "pld": "#b0752f", "rdp": "#8c3b4a"}
_BAR, _LIMIT = "#1b6ca8", "#8c3b4a"
_LEAST_RATE = 1e-6


class PlotError(ValueError):
    """There is no Matplotlib, or it knows no such format of pictures."""


def ledger_figure(
    rows: Sequence[Spending], delta: float, budget: Budget | None = None
) -> Any:
    """Return a picture of where epsilon went: what each label added to those before.

    Args:
      rows: of `PrivacyLedger.spending`.
      delta: the delta that they are for.
      budget: drawn as a line, if its delta is this one.

    Returns:
      A `matplotlib.figure.Figure`.

    Raises:
      PlotError: Matplotlib is not installed, or epsilon is infinite or nothing.
    """
    totals = [float(row.total) for row in rows]
    if not rows or not math.isfinite(totals[-1]):
        raise PlotError("Expected a ledger with a finite epsilon to draw, got none.")
    figure, axes = _axes(0.8 + 0.4 * len(rows))
    befores = [0.0, *totals[:-1]]
    added = [after - before for before, after in zip(befores, totals, strict=True)]
    axes.barh(range(len(rows)), added, left=befores, color=_BAR)
    for place, row in enumerate(rows):
        text = f" {figures.number_up(row.total)}"
        axes.text(row.total, place, text, va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"epsilon so far at delta {delta:g}")
    if budget is not None and budget.delta == delta:
        axes.axvline(budget.epsilon, color=_LIMIT, linestyle="--")
        end = (budget.epsilon, 1.0)
        place = axes.get_xaxis_transform()
        axes.text(*end, " budget", color=_LIMIT, va="bottom", transform=place)
    axes.margins(x=0.12)
    return figure


def curve_figure(
    steps: Sequence[int], curves: Mapping[str, Sequence[float]], delta: float
) -> Any:
    """Return a picture of epsilon over steps, one line an accountant.

    Args:
      steps: (n,) numbers of steps.
      curves: epsilons (n,) by accountant; what is not finite is left out.
      delta: the delta that they are for.

    Raises:
      PlotError: Matplotlib is not installed.
    """
    figure, axes = _axes(3.6)
    for name, epsilons in curves.items():
        finite = [value if math.isfinite(value) else math.nan for value in epsilons]
        axes.plot(steps, finite, label=name, color=_COLOURS.get(name))
    axes.set_xlabel("steps")
    axes.set_ylabel(f"epsilon at delta {delta:g}")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def profile_figure(epsilons: Sequence[float], deltas: Sequence[float]) -> Any:
    """Return a picture of delta over epsilon: (n,) each, deltas on a log axis.

    Raises:
      PlotError: Matplotlib is not installed.
    """
    figure, axes = _axes(3.6)
    axes.plot(epsilons, [value if value > 0 else math.nan for value in deltas])
    axes.set_yscale("log")
    axes.set_xlabel("epsilon")
    axes.set_ylabel("delta")
    return figure


def trade_off_figure(curve: TradeOffCurve, mu: float = math.inf) -> Any:
    """Return a picture of a trade-off curve: linear to the left, logarithmic beside it.

    Args:
      curve: drawn with its advantage, the largest distance from guessing.
      mu: of the Gaussian curve that is drawn dashed; none where it is infinite.

    Raises:
      PlotError: Matplotlib is not installed.
    """
    figure = _figure((8.4, 3.8))
    linear, log = figure.subplots(1, 2)
    rates = np.concatenate([np.geomspace(_LEAST_RATE, 0.01), np.linspace(0.01, 1, 200)])
    label = f"advantage {figures.number_up(curve.advantage)}"
    corners, errors = curve.vertices
    best = int(np.argmin(corners + errors))
    across = [corners[best]] * 2, [errors[best], 1 - corners[best]]
    for axes in (linear, log):
        axes.plot(rates, 1 - rates, ":", color="grey", label="guessing")
        if math.isfinite(mu):
            gaussian = special.ndtr(special.ndtri(1 - rates) - mu)
            name = f"Gaussian DP, mu {figures.number_up(mu)}"
            axes.plot(rates, gaussian, "--", color=_LIMIT, label=name)
        axes.plot(rates, curve.false_negative_rate(rates), color=_BAR, label="this run")
        axes.plot(*across, color="black", linewidth=1, label=label)
        axes.set_xlabel("false positive rate")
    linear.set_ylabel("false negative rate, at least")
    linear.legend(frameon=False, fontsize=8)
    log.set(xscale="log", yscale="log", xlim=(_LEAST_RATE, 1), ylim=(_LEAST_RATE, 1.5))
    return figure


def save(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a picture, whole or not at all; the file's ending says its format.

    Raises:
      PlotError: there is no such format.
      OSError: the file cannot be written.
    """
    target = pathlib.Path(path)
    ending = target.suffix.removeprefix(".").lower()
    known = sorted(figure.canvas.get_supported_filetypes())
    if ending not in known:
        raise PlotError(
            f"Expected a file that ends in one of {', '.join(known)}, got "
            f"path={os.fspath(path)!r}."
        )
    content = io.BytesIO()
    figure.savefig(content, format=ending)
    _files.replace(target, content.getvalue())


def _axes(height: float) -> tuple[Any, Any]:
    figure = _figure((6.4, height))
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _figure(size: tuple[float, float]) -> Any:
    if Figure is None:
        raise PlotError(
            "Expected Matplotlib, which draws (pip install 'dpjax[train]'), got a "
            "Python without it."
        )
    return Figure(figsize=size, layout="constrained")
