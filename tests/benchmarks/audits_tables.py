"""Turn the results of the bench of audits into Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import table

MARKS = ("<!-- audits:start -->", "<!-- audits:end -->")

TITLES = {
    "dpjax": "dpjax",
    "optax": "optax.contrib",
    "jax_privacy": "jax_privacy",
    "opacus": "Opacus",
    "opacus_unsampled": "Opacus, poisson_sampling=False",
}
ABSENT = {"removed": "a row is removed", "null": "a row is zeroed"}
AUDITS = ("model at the end", "all steps", "one run")
IN_UNITS = ("public divisor", "sensitivity", "not finite")
_ROUNDING = 1e-6

LEGEND = (
    "Bold breaks the promise. The first three columns are audits: the lower bound on "
    "epsilon (at 99 % confidence for all attacks together, of the attack that is "
    "furthest above what is stated), and what is stated, the exact epsilon of the "
    "settings. The others are invariants of the release: the noise multiplier that is "
    "measured, of the one that is claimed; the largest correlation of the noise of two "
    "steps, layers or runs, of what chance allows; the noise of few rows in units of "
    "that of four times as many; the most that one example moves the sum of a step, in "
    "clip norms, where 1 is promised; the same of one that is not finite; and the "
    "p-value of the batches under Poisson sampling. An empty cell: the check does not "
    "apply."
)

Row = Mapping[str, Any]


def render(run: Row) -> str:
    """Return Markdown for one run, under a line that says what it ran on."""
    return "\n\n".join(_blocks(run)) + "\n"


def cell(check: str, found: Row | None) -> str:
    """Return what a check found, in bold where that breaks the promise.

    >>> cell("all steps", {"caught": True, "found": 3.72, "allowed": 1.52})
    '**3.7 > 1.5**'
    >>> cell("sampling", {"caught": False, "found": 0.46, "allowed": 1e-6})
    'p 0.46'
    """
    if found is None:
        return ""
    value, allowed = float(found["found"]), found["allowed"]
    if check in AUDITS:
        sign = ">" if found["caught"] else "<"
        text = f"{value:.1f} {sign} {allowed:.1f}"
    elif check == "sampling":
        text = f"p < {allowed:g}" if found["caught"] else f"p {value:.2g}"
    elif check in IN_UNITS:
        text = f"{value:.2g}" if value > _ROUNDING else "0"
    else:
        text = f"{value:.2g} of {allowed:.2g}"
    return f"**{text}**" if found["caught"] else text


def _blocks(run: Row) -> Iterator[str]:
    libraries = run["libraries"]
    versions = dict(run["machine"]["versions"])
    for library in libraries.values():
        versions |= library["versions"]
    yield ", ".join(f"{name} {version}" for name, version in versions.items()) + "."
    if run["settings"]["quick"]:
        yield "A trial: these numbers measure nothing."
    if run["broken"]:
        yield "Which check catches which bug. " + LEGEND
        yield _matrix(
            ["trainer"], [[row["trainer"]] for row in run["broken"]], run["broken"]
        )
    if libraries:
        yield _about(libraries)
        heads = [
            [TITLES[part], ABSENT[row["absent"]]]
            for part, library in libraries.items()
            for row in library["rows"]
        ]
        rows = [row for library in libraries.values() for row in library["rows"]]
        yield _matrix(["trainer", "against"], heads, rows)
        yield "\n".join([*_findings(libraries), *_statements(run)])
    if run["skipped"]:
        yield "\n".join(f"- {line}" for line in run["skipped"])


def _about(libraries: Row) -> str:
    efforts = sorted({library["effort"] for library in libraries.values()})
    share = " or ".join(f"{effort:g}" for effort in efforts)
    return (
        f"The same checks of what libraries release, with {share} of the runs. In the "
        "world without the canary its row is removed, or it is zeroed: that is the "
        "promise where the number of rows is public."
    )


def _matrix(
    head: Sequence[str], starts: Sequence[Sequence[str]], rows: Sequence[Row]
) -> str:
    checks = list(rows[0]["checks"])
    body = [
        [*start, *(cell(name, row["checks"][name]) for name in checks)]
        for start, row in zip(starts, rows, strict=True)
    ]
    return table.markdown([*head, *checks], body)


def _statements(run: Row) -> Iterator[str]:
    """Yield a line for each library with an accountant of its own."""
    promise = run["promise"]
    for part, library in run["libraries"].items():
        if library["stated"] is not None:
            yield (
                f"- {TITLES[part]}: where the exact epsilon of a run that samples is "
                f"{promise['epsilon']:.2f}, at delta {promise['delta']:g}, its own "
                f"accountant states {library['stated']:.2f}; a bound between the two "
                "breaks the former alone."
            )


def _findings(libraries: Row) -> Iterator[str]:
    """Yield a line a library and relation, with the cases that break the promise."""
    for part, library in libraries.items():
        for row in library["rows"]:
            caught = [
                f"{name} ({found['where']})"
                for name, found in row["checks"].items()
                if found and found["caught"]
            ]
            words = "; ".join(caught) if caught else "nothing found"
            yield f"- {TITLES[part]}, {ABSENT[row['absent']]}: {words}."
