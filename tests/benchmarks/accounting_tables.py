"""Turn the results of the benchmark of accountants into Markdown."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import accounting_tasks
import table

MARKS = ("<!-- accounting:start -->", "<!-- accounting:end -->")

TITLES = {
    "exact": "exact",
    "pld": "pld",
    "rdp": "rdp",
    "library_pld": "dp_accounting PLD",
    "library_rdp": "dp_accounting RDP",
    "prv": "PRV",
    "opacus": "Opacus RDP",
}

Row = Mapping[str, Any]


def render(run: Mapping[str, Any]) -> str:
    """Return Markdown for one run, under a line that says what it ran on."""
    return "\n\n".join(_blocks(run)) + "\n"


def error_text(answer: Row, tolerance: float = 0.0) -> str:
    """Return the relative error of an answer; what is within the tolerance is 0.

    >>> error_text({"error": 0.01135}), error_text({"error": 3e-12}, 1e-9)
    ('1.1 %', '0')
    """
    if "error" not in answer or isinstance(answer["error"], str):
        return _nothing(answer)
    error = answer["error"]
    if abs(error) <= tolerance:
        return "0"
    if math.isinf(error):
        return "infinite"
    if error >= 1:
        return f"{1 + error:.0f} times" if error >= 9 else f"{1 + error:.1f} times"
    if abs(error) >= 0.1:
        return f"{100 * error:.0f} %"
    return f"{100 * error:.2g} %" if abs(error) >= 1e-3 else f"{error:.0e}"


def time_text(answer: Row, unit: float) -> str:
    """Return the time of an answer in units of another.

    >>> time_text({"value": 1.0, "seconds": 0.3}, 0.1), time_text({"late": 60.0}, 1.0)
    ('3.0', '> 60 s')
    """
    if "value" not in answer:
        return _nothing(answer)
    ratio = answer["seconds"] / unit
    return (
        f"{ratio:.0f}"
        if ratio >= 10
        else f"{ratio:.2g}"
        if ratio < 1
        else f"{ratio:.1f}"
    )


def _nothing(answer: Row) -> str:
    return f"> {answer['late']:.0f} s" if "late" in answer else "-"


def _blocks(run: Mapping[str, Any]) -> Iterator[str]:
    found = run["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
    yield f"{found['chip']}, one thread, processor time, {versions}."
    if run["settings"]["quick"]:
        yield "A trial: these numbers measure nothing."
    names = run["settings"]["accountants"]
    if run["epsilons"]:
        yield from _epsilons(run["epsilons"], names)
        if run["epsilons"][0]["refined"]:
            yield from _refined(run["epsilons"])
    if run["jobs"]:
        yield from _jobs(run["jobs"], names)
    if run["savings"] and run["savings"]["noise"]:
        yield from _savings(run["savings"])
    if run["skipped"]:
        yield "\n".join(f"- {line}" for line in run["skipped"])


def _epsilons(rows: Sequence[Row], names: Sequence[str]) -> Iterator[str]:
    shown = [row for row in rows if row["case"] in accounting_tasks.SHOWN] or rows
    titles = [TITLES[name] for name in names]
    yield (
        "Epsilon, and the relative error of each accountant (0: within the "
        "reference's tolerance; minus: BELOW the true value; a lone -: no answer). "
        "PRV's number is its estimate, in the middle of bounds 0.02 apart:"
    )
    body = [
        [
            *_setting(row),
            f"{row['epsilon']:.6g}",
            *(error_text(row["answers"][name], row["tolerance"]) for name in names),
        ]
        for row in shown
    ]
    head = ["noise, q, steps", "delta", "epsilon"]
    yield table.markdown(head + titles, body)
    yield "Time of the same, in units of the exact accountant's:"
    body = [[*_setting(row), *_times(row["answers"], names)] for row in shown]
    yield table.markdown([*head[:2], *titles], body)
    yield "\n".join(_summary(rows, names))


def _setting(row: Row) -> list[str]:
    parts = [f"{s:g}, {q:.4g}, {n:,}" for s, q, n in row["segments"]]
    return ["; ".join(parts), f"{row['delta']:g}"]


def _times(answers: Mapping[str, Row], names: Sequence[str]) -> list[str]:
    mine = answers["exact"]
    if "value" not in mine:
        return [time_text(answers[name], 1.0) for name in names]
    others = [time_text(answers[n], mine["seconds"]) for n in names if n != "exact"]
    return [_duration(mine["seconds"]), *others]


def _duration(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds >= 1 else f"{1e3 * seconds:.0f} ms"


def _summary(rows: Sequence[Row], names: Sequence[str]) -> Iterator[str]:
    """Yield one line an accountant about all cases, shown or not."""
    contour = sum(row["method"] == "exact" for row in rows)
    yield (
        f"- All {len(rows)} reference cases: the exact accountant answers {contour} by "
        "the contour or a closed form, the others on a grid."
    )
    for name in names:
        answers = [(row["answers"][name], row["tolerance"]) for row in rows]
        found = [(a["error"], t, a["seconds"]) for a, t in answers if "value" in a]
        if not found:
            continue
        wrong = [error for error, tolerance, _ in found if abs(error) > tolerance]
        largest = max((abs(error) for error in wrong), default=0.0)
        low = sum(error < -tolerance for error, tolerance, _ in found)
        middle = statistics.median(seconds for *_, seconds in found)
        longest = max(seconds for *_, seconds in found)
        yield (
            f"- {TITLES[name]}: {len(found)} answers, {len(found) - len(wrong)} within "
            f"the tolerance, {low} below the truth, largest error "
            f"{error_text({'error': largest})}; {_duration(middle)} in the median, "
            f"{_duration(longest)} at most."
        )


def _jobs(rows: Sequence[Row], names: Sequence[str]) -> Iterator[str]:
    yield (
        "Larger jobs (of a noise multiplier: its relative error beside the time, 0 "
        "below 1e-8; exact, dp_accounting and Opacus search to nine digits):"
    )
    body = []
    for row in rows:
        cells = []
        for name in names:
            answer = row["answers"][name]
            cell = _nothing(answer)
            if "value" in answer:
                cell = _duration(answer["seconds"])
                if row["task"] == "noise":
                    cell += f" ({error_text(answer, 1e-8)})"
            cells.append(cell)
        body.append([row["title"], *cells])
    yield table.markdown(["job", *(TITLES[name] for name in names)], body)


def _refined(rows: Sequence[Row]) -> Iterator[str]:
    peers = list(rows[0]["refined"])
    yield (
        "At equal error: the peer's grid is made ten times as fine until its error is "
        "not above ours (or the tolerance), or until it takes longer, from where on it "
        "only gets slower. Its error there, and its time in units of ours:"
    )
    shown = [row for row in rows if row["case"] in accounting_tasks.SHOWN] or rows
    body = []
    for row in shown:
        level, unit = accounting_tasks.level(row), row["answers"]["exact"]["seconds"]
        cells = []
        for peer in peers:
            found = row["refined"][peer]
            cells += [error_text(found, level), time_text(found, unit)]
        body.append([*_setting(row), f"{level:.0e}, {_duration(unit)}", *cells])
    head = ["noise, q, steps", "delta", "exact"]
    head += [f"{TITLES[p]} {what}" for p in peers for what in ("error", "time")]
    yield table.markdown(head, body)
    lines = []
    for peer in peers:
        verdicts = [row["refined"][peer]["verdict"] for row in rows]
        able = [verdict for verdict in verdicts if verdict != "unable"]
        lines.append(
            f"- {TITLES[peer]} can do {len(able)} of {len(rows)} cases; at equal error "
            f"the exact accountant is ahead of it in time on {able.count('behind')}."
        )
    yield "\n".join(lines)


def _savings(found: Row) -> Iterator[str]:
    yield "What this saves in noise, for a target:"
    body = [
        [
            f"{row['sampling_prob']:g}, {row['steps']:,}",
            f"{row['target']:g}, {row['delta']:g}",
            f"{row['rdp']:.4f}",
            f"{row['exact']:.4f}",
            f"{100 * (1 - row['exact'] / row['rdp']):.0f} %",
            f"{row['spent_with_rdp']:.3f}",
        ]
        for row in found["noise"]
    ]
    head = ["q, steps", "epsilon, delta", "noise by rdp", "noise by exact", "less"]
    yield table.markdown([*head, "true epsilon of the noise by rdp"], body)
    yield "And for runs that were published:"
    body = [
        [
            row["title"],
            f"{row['stated']:g}",
            f"{row['rdp']:.3f}",
            f"{row['exact']:.3f}",
            f"{row['noise']:g}",
            f"{row['noise_needed']:.4g}",
        ]
        for row in found["published"]
    ]
    head = ["run", "epsilon stated", "by rdp", "exact", "noise used", "noise needed"]
    yield table.markdown(head, body)
