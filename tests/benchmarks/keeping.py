"""Bring a run together with the one that is kept: what is measured anew replaces."""

from collections.abc import Mapping, Sequence
from typing import Any

Run = dict[str, Any]


def brought_together(before: Run, run: Run, order: Sequence[str]) -> Run:
    """Return a run with the rows and contestants of another that it did not measure.

    Each ratio stays one of times measured side by side, in one process or the other.

    Args:
        before: The run that is kept.
        run: The new one, of any rows, contestants and parts.
        order: The contestants, in the order of their columns.

    Returns:
        The new run, if the other is of another machine or of other versions; else both.
    """
    if not _is_comparable(before, run):
        return run
    names = {*before["settings"]["contestants"], *run["settings"]["contestants"]}
    settings = run["settings"] | {"contestants": [n for n in order if n in names]}
    versions = before["machine"]["versions"] | run["machine"]["versions"]
    parts = {
        part: _rows(before[part], run[part])
        for part in ("gradients", "steps", "scaling")
    }
    machine = run["machine"] | {"versions": versions}
    return before | run | {"machine": machine, "settings": settings} | parts


def _is_comparable(before: Run, run: Run) -> bool:
    machine, other = before["machine"], run["machine"]
    versions = machine["versions"].items() & other["versions"].items()
    shared = machine["versions"].keys() & other["versions"].keys()
    same = all(machine[key] == other[key] for key in ("chip", "cores", "python"))
    return same and len(versions) == len(shared)


def _rows(before: Sequence[Run], after: Sequence[Run]) -> list[Run]:
    """Return all rows in the order of those that were there before."""
    rows = {_name(row): row for row in before}
    for row in after:
        old = rows.get(_name(row), {})
        rows[_name(row)] = row
        if "contestants" in row and "contestants" in old:
            together = old["contestants"] | row["contestants"]
            rows[_name(row)] = row | {"contestants": together}
    return list(rows.values())


def _name(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row.get("workload"), row["title"], row.get("batch"), row.get("along")
