"""The table of the benchmark of mechanisms."""

import statistics
from collections.abc import Mapping
from typing import Any

import table

MARKS = "<!-- mechanisms:start -->", "<!-- mechanisms:end -->"

Run = Mapping[str, Any]


def render(run: Run) -> str:
    """Return the table in Markdown."""
    blocks = [f"{table.machine_line(dict(run))}"]
    if run["settings"]["quick"]:
        blocks.append("A trial at tiny sizes: these numbers measure nothing.")
    blocks.append(_rows(run["rows"]))
    return "\n\n".join(blocks) + "\n"


def _rows(rows: Mapping[str, Run]) -> str:
    head = ["mechanism", "flags", "noise multiplier", "epsilon", "neighbours"]
    head += ["accuracy (standard deviation)", "a run"]
    lines = [
        [
            name,
            " ".join(f"`{f}`" if f[:2] == "--" else f for f in row["flags"]),
            f"{row['noise_multiplier']:.3g}",
            f"{row['epsilon']:.2f}",
            row["relation"],
            _accuracy(row["accuracies"]),
            f"{row['seconds']:.0f} s",
        ]
        for name, row in rows.items()
    ]
    return table.markdown(head, lines)


def _accuracy(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.1f} %"
    return f"{mean} ({statistics.stdev(values):.1f})" if len(values) > 1 else mean
