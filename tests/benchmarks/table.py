"""Turn results into Markdown, and put that into README between two marks."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import contestants

START, END = "<!-- benchmark:start -->", "<!-- benchmark:end -->"

MARK_NS = 40
"""Work a parameter in the plain step, ns, from which a private step has its mark."""

Row = dict[str, Any]


def render(runs: Sequence[dict[str, Any]]) -> str:
    """Return Markdown for all runs, each under a line that names its machine."""
    return "\n\n".join("\n\n".join(_blocks(run)) for run in runs) + "\n"


def replace_block(text: str, block: str, marks: tuple[str, str] = (START, END)) -> str:
    """Return `text` with `block` between the marks.

    Raises:
        ValueError: If `text` does not have each mark once, start before end.
    """
    first, last = marks
    before, start, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not (start and end) or first in after or last in before + after:
        raise ValueError(f"Expected one {first} before one {last}, got text={text!r}.")
    return f"{before}{first}\n{block}{last}{after}"


def read_block(text: str, marks: tuple[str, str] = (START, END)) -> str | None:
    """Return what stands between the marks, or None where there are none."""
    _, start, rest = text.partition(f"{marks[0]}\n")
    block, end, _ = rest.partition(marks[1])
    return block if start and end else None


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """Return a table of cells."""
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *lines])


def row_line(part: str, row: Row) -> str:
    """Return one line that tells how a row came out, for whoever waits."""
    if "dropped" in row:
        return f"{part}: {row['title']}: {row['dropped']}"
    if part == "gradients":
        found = {name: e.get("ratio") for name, e in row["contestants"].items()}
    elif part == "steps":
        found = {"private": row["ratio"]}
    else:
        found = row["exponent"]
    words = [f"{k} {'-' if v is None else f'{v:.2f}'}" for k, v in found.items()]
    return f"{part}: {row.get('workload', row['title'])}: {', '.join(words)}"


def machine_line(run: dict[str, Any]) -> str:
    """Return the line that names chip, cores and versions."""
    machine = run["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    cores = f"{machine['cores']} CPU cores"
    return f"{machine['chip']}, {cores}, Python {machine['python']}, {versions}."


def _blocks(run: dict[str, Any]) -> Iterator[str]:
    yield f"**{run['machine']['backend'].upper()}**: {machine_line(run)}"
    if run["settings"]["quick"]:
        yield "A trial at tiny sizes: these numbers measure nothing."
    if run["gradients"]:
        yield from _gradient_blocks(run["gradients"], run["settings"]["contestants"])
    if run["steps"]:
        yield (
            "A whole step of SGD with momentum, private against plain, and what one "
            "more draw of noise takes:"
        )
        yield _steps(run["steps"])
    if run["scaling"]:
        yield "Growth of the time of one gradient, as an exponent of the size:"
        yield _scaling(run["scaling"])
    if run["skipped"]:
        yield "\n".join(f"- {line}" for line in run["skipped"])


def _gradient_blocks(rows: list[Row], chosen: Sequence[str]) -> Iterator[str]:
    others = [name for name in chosen if name != "plain"]
    here = [name for name in others if name not in contestants.OPACUS]
    yield (
        "Time of clipped gradients, in units of the plain gradient's (Opacus: of "
        "PyTorch's own):"
    )
    yield _gradients(rows, others, "ratio", ".2f")
    yield "Peak temporaries, in units of the plain gradient's:"
    yield _gradients(rows, here, "temp_ratio", ".2f", plain=_megabytes)
    yield "Time to trace and compile, in units of the plain gradient's:"
    yield _gradients(rows, here, "compile_ratio", ".1f", plain=_compile_seconds)
    yield (
        "What that is made of: arithmetic operations, and the bytes that products, "
        "sums, look-ups and scatters read and write, in units of the plain gradient's:"
    )
    yield _made_of(rows, [name for name in here if name in ("auto", "vmap")])
    if dropped := list(_dropped(rows)):
        yield "\n".join(dropped)


def _milliseconds(row: Row) -> str:
    return f"{row['contestants']['plain']['ms']:.1f} ms"


def _megabytes(row: Row) -> str:
    return f"{row['contestants']['plain']['temp_bytes'] / 1e6:.0f} MB"


def _compile_seconds(row: Row) -> str:
    return f"{row['contestants']['plain']['compile_seconds']:.2f} s"


def _gradients(
    rows: list[Row],
    names: Sequence[str],
    field: str,
    digits: str,
    plain: Callable[[Row], str] = _milliseconds,
) -> str:
    head = ["model", "parameters", "batch", "plain"]
    lines = [
        [
            row["title"],
            f"{row['params']:,}",
            str(row["batch"]),
            plain(row),
            *(_cell(row["contestants"].get(name), field, digits) for name in names),
        ]
        for row in rows
    ]
    return markdown(head + [contestants.TITLES[name] for name in names], lines)


def _made_of(rows: list[Row], names: Sequence[str]) -> str:
    head = ["model", "batch", "plain"]
    for name in names:
        head += [
            f"{contestants.TITLES[name]}, {what}" for what in ("operations", "bytes")
        ]
    lines = []
    for row in rows:
        found = row["contestants"]
        plain = found["plain"]
        size = (
            f"{plain['operations'] / 1e6:,.0f} M, {plain['bytes_moved'] / 1e6:,.0f} MB"
        )
        line = [row["title"], str(row["batch"]), size]
        for name in names:
            for field in ("operations_ratio", "bytes_ratio"):
                line.append(_cell(found.get(name), field, ".2f"))
        lines.append(line)
    return markdown(head, lines)


def _cell(entry: Row | None, field: str, digits: str) -> str:
    if entry is None:
        return "not run"
    return "-" if "dropped" in entry else format(entry[field], digits)


def _dropped(rows: list[Row]) -> Iterator[str]:
    """Yield one line a reason, with the rows that it holds for."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, entry in row["contestants"].items():
            if "dropped" in entry:
                key = contestants.TITLES[name], entry["dropped"]
                reasons.setdefault(key, []).append(row["workload"])
    for (title, why), names in reasons.items():
        yield f"- {title}, {', '.join(names)}: {why}."


def _steps(rows: list[Row]) -> str:
    head = ["model", "batch", "plain", "a parameter", "private", "noise, a value"]
    mark = f"\n\n\\* {MARK_NS} ns a parameter or more."
    return markdown(head, [_step(row) for row in rows]) + mark


def _step(row: Row) -> list[str]:
    start = [row["title"], str(row["batch"])]
    if "dropped" in row:
        return [*start, "-", "-", row["dropped"], "-"]
    per_param = row["plain_ns_per_param"]
    return [
        *start,
        f"{row['plain_ms']:.1f} ms",
        f"{per_param:.0f} ns" + " \\*" * (per_param >= MARK_NS),
        f"{row['ratio']:.2f}",
        f"{row['noise_ns_per_value']:.1f} ns",
    ]


def _scaling(rows: list[Row]) -> str:
    head = ["model", "along", "plain", "dpjax", "dpjax, ms"]
    lines = [
        [
            row["title"],
            f"{row['along']} {', '.join(map(str, row['values']))}",
            f"{row['exponent']['plain']:.2f}",
            f"{row['exponent']['auto']:.2f}",
            ", ".join(f"{value:.1f}" for value in row["ms"]["auto"]),
        ]
        for row in rows
    ]
    return markdown(head, lines)
