"""The tables of the benchmark of curvature."""

from collections.abc import Mapping, Sequence
from typing import Any

import table

MARKS = "<!-- curvature:start -->", "<!-- curvature:end -->"

Run = Mapping[str, Any]


def render(run: Run) -> str:
    """Return the tables in Markdown."""
    blocks = [f"{table.machine_line(dict(run))}"]
    if run["settings"]["quick"]:
        blocks.append("A trial at tiny sizes: these numbers measure nothing.")
    if run["gradients"]:
        blocks += [
            "Time in plain gradients of the same batch, and operations as XLA counts "
            "them (a probe is 10 Lanczos steps and 10 probes of the trace; of the "
            "products at one point, the first works the gradient out too):",
            _gradients(run["gradients"]),
        ]
    if run["tour"]:
        tour = run["tour"]
        blocks.append(
            f"Per-example TD gradients of two examples: {tour['with jit']:.3f} ms with "
            f"jit, {tour['without jit']:.2f} ms without: {tour['ratio']:.0f} times."
        )
    if run["spectrum"]:
        blocks.append(_spectrum(run["spectrum"]))
    return "\n\n".join(blocks) + "\n"


def _gradients(rows: Sequence[Run]) -> str:
    head = ["model", "parameters", "batch", "gradient", "HVP", "first HVP, operations"]
    head += ["further HVP, operations", "Lanczos", "trace", "probe"]
    lines = [
        [
            row["title"],
            f"{row['params']:,}",
            str(row["batch"]),
            f"{row['gradient_ms']:.1f} ms",
            f"{row['ratio']['hvp']:.2f}",
            *(f"{row['operations'][key]:.2f}" for key in ("first", "further")),
            *(f"{row['ratio'][key]:.1f}" for key in ("lanczos", "trace", "probe")),
        ]
        for row in rows
    ]
    return table.markdown(head, lines)


def _spectrum(row: Run) -> str:
    return (
        f"Spectrum of {row['params']:,} parameters on {row['examples']:,} examples, "
        f"{row['probes']} probes of {row['steps']} steps: {row['seconds']:.0f} s."
    )
