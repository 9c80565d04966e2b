"""The tables of the benchmark of audits, and its picture."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import table

matplotlib.use("Agg")

import matplotlib.pyplot as plt

MARKS = "<!-- audit_power:start -->", "<!-- audit_power:end -->"
DELTA, SIGNIFICANCE = 1e-5, 0.05

METHODS = {
    "dp": "one run, (epsilon, delta)",
    "fdp": "one run, f-DP",
    "clopper_pearson": "rates, Clopper-Pearson",
    "gdp": "rates, Gaussian DP",
}

Run = Mapping[str, Any]


def render(run: Run) -> str:
    """Return the tables in Markdown."""
    versions = ", ".join(f"{name} {v}" for name, v in run["versions"].items())
    blocks = [f"{versions}; delta {DELTA:g}, confidence {1 - SIGNIFICANCE:.0%}."]
    if run["settings"]["quick"]:
        blocks.append("A trial at tiny sizes: these numbers measure nothing.")
    if run["guesses"]:
        blocks.append("Lower bounds from one run, guesses of in alone and of both:")
        blocks.append(_guesses(run["guesses"]))
    if run["curves"]:
        blocks.append("Lower bounds from one run of 1000 canaries, guesses of both:")
        blocks.append(_curves(run["curves"]))
    if run["power"]:
        theory = run["power"][0]["theory"]
        blocks.append(
            "Median lower bound of simulated runs of a Gaussian mechanism whose "
            f"epsilon is {theory:.2f} (in brackets, how many of the "
            f"{run['settings']['trials']} were above it):"
        )
        blocks.append(_power(run["power"]))
    return "\n\n".join(blocks) + "\n"


def draw(rows: Sequence[Run], path: pathlib.Path) -> None:
    """Write the power curve; the file's ending says its format."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    sizes = [row["canaries"] for row in rows]
    for name, title in METHODS.items():
        low, middle, high = zip(*(row["quantiles"][name] for row in rows), strict=True)
        (line,) = axes.plot(sizes, middle, marker="o", markersize=3, label=title)
        axes.fill_between(sizes, low, high, color=line.get_color(), alpha=0.15)
    axes.axhline(rows[0]["theory"], color="black", linewidth=0.8, label="epsilon")
    axes.set_xscale("log")
    axes.set_xlabel("canaries, half of them in")
    axes.set_ylabel("lower bound: median, 5 % to 95 %")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path)
    plt.close(figure)


def _guesses(rows: Sequence[Run]) -> str:
    head = ["canaries", "mu", "epsilon", "in", "both", "gain"]
    head += ["f-DP: in", "both", "gain"]
    lines = []
    for row in rows:
        line = [str(row["canaries"]), f"{row['mu']:g}", f"{row['theory']:.2f}"]
        for method in ("dp", "fdp"):
            one, both = (row["bounds"][f"{method}_{side}"] for side in ("in", "both"))
            line += [f"{one:.2f}", f"{both:.2f}", f"{both / one - 1:+.0%}"]
        lines.append(line)
    return table.markdown(head, lines)


def _curves(rows: Sequence[Run]) -> str:
    head = ["rate", "steps", "noise", "epsilon", "(epsilon, delta)"]
    head += ["f-DP, Gaussian curves", "f-DP, its own curves", "gain"]
    lines = []
    for row in rows:
        bounds = row["bounds"]
        gain = bounds["own"] / bounds["gaussian"] - 1
        lines.append(
            [
                f"{row['rate']:g}",
                str(row["steps"]),
                f"{row['noise']:g}",
                *(f"{value:.2f}" for value in (row["theory"], *bounds.values())),
                f"{gain:+.0%}",
            ]
        )
    return table.markdown(head, lines)


def _power(rows: Sequence[Run]) -> str:
    def cell(row: Run, name: str) -> str:
        above = round(row["too_high"][name] * 100)
        return f"{row['quantiles'][name][1]:.2f} ({above} %)"

    lines = [[str(row["canaries"]), *(cell(row, n) for n in METHODS)] for row in rows]
    return table.markdown(["canaries", *METHODS.values()], lines)
