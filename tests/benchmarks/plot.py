"""Draw the first table: bars of time ratios, by model and contestant, on a log axis."""

import pathlib
from typing import Any

import contestants
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

COLOURS = {
    "auto": "#1b6ca8",
    "bookkeeping": "#6fb1de",
    "vmap": "#b0752f",
    "optax": "#d9a441",
    "jax_privacy": "#8c3b4a",
    "opacus_hooks": "#6b6b6b",
    "opacus_ghost": "#a8a8a8",
}


def save(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Write the picture of some rows; the file's ending says its format."""
    names = [
        name
        for name in COLOURS
        if any("ratio" in row["contestants"].get(name, {}) for row in rows)
    ]
    size = (9, 1.6 + 0.8 * len(rows))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    height = 0.8 / max(len(names), 1)
    for index, name in enumerate(names):
        _draw_bars(axes, rows, name, index * height, height)
    middle = (len(names) - 1) * height / 2
    axes.set_yticks(
        [place + middle for place in range(len(rows))],
        [f"{row['title']}, batch {row['batch']}" for row in rows],
    )
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("time of clipped gradients / time of the plain gradient")
    axes.xaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path)
    plt.close(figure)


def _draw_bars(
    axes: plt.Axes, rows: list[dict[str, Any]], name: str, shift: float, height: float
) -> None:
    """Draw one contestant's bar in each row that it was measured in."""
    ratios = [row["contestants"].get(name, {}).get("ratio") for row in rows]
    shown = [(place + shift, r) for place, r in enumerate(ratios) if r is not None]
    places, lengths = zip(*shown, strict=True)
    title, colour = contestants.TITLES[name], COLOURS[name]
    bars = axes.barh(places, lengths, height, label=title, color=colour)
    axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=7)
