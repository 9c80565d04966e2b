"""The page of one training run: what was reached, at what epsilon, and from what."""

import dataclasses
import math
import pathlib
import shlex
from typing import Any, NamedTuple

import numpy as np

from dpjax.report import page, run_charts, words
from dpjax.report.folder import Run, as_number, read_run

_TABLES = ("settings", "training", "model", "versions")
_TABLE_ROWS = 24


class Caution(NamedTuple):
    """What a reader must know before believing the headline."""

    head: str
    text: str


_TORN = Caution(
    "A torn line.",
    "The last line of metrics.jsonl was not written to its end and is left out.",
)
_LARGE_DELTA = Caution(
    "Delta is large.",
    "It is not below one over the number of training examples: a mechanism that "
    "publishes one example as it is would be allowed.",
)
_SEEDED = Caution(
    "Seeded by hand.",
    "The seed stands on this page. Whoever knows or guesses it can compute the noise "
    "and take it off again: epsilon holds only against those who cannot. For a model "
    "that is to be released, give no seed.",
)

_STARTED = Caution(
    "Begun where another run ended.",
    "What that run spent of the same data is not in this epsilon. A budget that both "
    "share covers both.",
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The headline of a run.

    Attributes:
      status: "finished", "stopped_at_budget" or "unfinished".
      step: the step that the epsilons belong to.
      bounds: the epsilons there.
      public: the last public metrics.
      public_step: the step that they belong to.
    """

    status: str
    step: int
    bounds: list[words.Bound]
    public: dict[str, float]
    public_step: int

    @property
    def epsilon(self) -> float:
        """Return the least of the upper bounds, infinite where none is known."""
        return min((bound.value for bound in self.bounds), default=math.inf)


def write_run_report(run_dir: str | pathlib.Path) -> pathlib.Path:
    """Write report.html into a run folder: one file that requests nothing.

    Args:
      run_dir: folder with config.json, metrics.jsonl and, when the run has ended,
        summary.json. Without the last the page says "unfinished".

    Returns:
      The path of the page. Only its owner may read it, since it also holds raw
      statistics of private data, marked as such.

    Raises:
      ReportError: a file is missing, damaged or not JSON, or the page cannot be
        written. The message names the file. A last line of metrics.jsonl that was not
        written to its end is left out, and the page says so.

    Guarantee:
      Nothing in the folder is taken for markup: every value is escaped. The page is
      replaced whole or not at all. Epsilon and delta are rounded up, never down.
    """
    run = read_run(run_dir)
    text = page.render("run.html", **_context(run))
    return page.write_private(run.path / "report.html", text)


def _context(run: Run) -> dict[str, Any]:
    outcome = _outcome(run)
    return {
        "run": run,
        "title": _title(run),
        "outcome": outcome,
        "utility": _utility(outcome),
        "facts": _facts(run, outcome),
        "cautions": _cautions(run, outcome),
        "constants": words.constants(run.config),
        "tables": _tables(run),
        "command": _command(run.config["settings"].get("command")),
        "hashes": words.rows(run.summary["sha256"]) if run.summary else [],
        "public_charts": run_charts.public_charts(run),
        "private_charts": run_charts.private_charts(run),
        "evaluations": _evaluations(run),
        **_privacy(run, outcome),
    }


def _privacy(run: Run, outcome: Outcome) -> dict[str, Any]:
    """Say what the epsilon means, where there is one."""
    delta = as_number(run.config["delta"])
    if not run.config["private"] or delta is None or math.isinf(outcome.epsilon):
        return {"is_private": False}
    return {
        "is_private": True,
        "delta": page.number_up(delta),
        "factor": words.likelihood_factor(outcome.epsilon),
        "guess": page.percent_up(words.guessing_bound(outcome.epsilon, delta)),
        "epsilon_chart": run_charts.epsilon_chart(run),
        "shared": words.shared_budget(run.config),
        "unit": run.config.get("unit", "example"),
        "quoted": (run.summary or {}).get("not_a_guarantee"),
    }


def _outcome(run: Run) -> Outcome:
    """Take the end of the run from the summary, else from the last lines."""
    last = run.summary or (run.lines[-1] if run.lines else {})
    step = last.get("steps", last.get("step", 0))
    evaluated = [line for line in run.lines if line["public"]]
    source = last if last.get("public") or not evaluated else evaluated[-1]
    scalars = {k: as_number(v) for k, v in source.get("public", {}).items()}
    return Outcome(
        status=str(last.get("status", "finished")) if run.summary else "unfinished",
        step=step,
        bounds=words.bounds(last.get("epsilon", {})),
        public={key: value for key, value in scalars.items() if value is not None},
        public_step=source.get("steps", source.get("step", step)),
    )


def _tables(run: Run) -> list[tuple[str, list[words.Row]]]:
    """Return what else config.json says, table by table."""
    parts = {key: dict(run.config[key]) for key in _TABLES}
    parts["settings"].pop("command", None)
    return [(page.label(key), words.rows(part)) for key, part in parts.items() if part]


def _title(run: Run) -> str:
    settings = run.config["settings"]
    names = [words.plain(settings[k]) for k in ("dataset", "model") if settings.get(k)]
    return " · ".join(names) or run.path.absolute().name


def _utility(outcome: Outcome) -> str:
    """Say what was reached: "91.2 % test accuracy", else the first metric."""
    for key, value in outcome.public.items():
        if key.endswith("accuracy"):
            return f"{page.percent(value)} {page.label(key).lower()}"
    for key, value in outcome.public.items():
        return f"{page.label(key)} {page.number(value)}"
    return "Not evaluated"


def _facts(run: Run, outcome: Outcome) -> list[words.Row]:
    mechanism, summary = run.config["mechanism"], run.summary or {}
    planned = as_number(mechanism.get("num_steps"))
    of_all = f" of {page.number(planned)}" if planned is not None else ""
    rows = [words.Row("Steps", f"{outcome.step:,}{of_all}")]
    seconds = as_number(summary.get("elapsed_seconds"))
    if seconds is not None and math.isfinite(seconds):
        rows.append(words.Row("Training time", page.duration(seconds)))
    for key in ("num_examples", "expected_batch_size", "l2_norm_clip"):
        value = as_number(mechanism.get(key))
        if value is not None and math.isfinite(value):
            rows.append(words.Row(words.name(key), page.number(value)))
    noise = as_number(mechanism.get("noise_multiplier"))
    if noise is not None and run.config["private"]:
        rows.append(words.Row(words.name("noise_multiplier"), page.number(noise)))
    return rows


def _cautions(run: Run, outcome: Outcome) -> list[Caution]:
    found = []
    if outcome.status == "unfinished":
        found.append(_unfinished(outcome))
    if run.torn:
        found.append(_TORN)
    examples = as_number(run.config["mechanism"].get("num_examples"))
    delta = as_number(run.config["delta"])
    if run.config["private"] and delta and examples and delta * examples >= 1:
        found.append(_LARGE_DELTA)
    if run.config["private"] and run.config["settings"].get("seed") is not None:
        found.append(_SEEDED)
    if run.config["private"] and run.config["settings"].get("start_from") is not None:
        found.append(_STARTED)
    return found


def _unfinished(outcome: Outcome) -> Caution:
    return Caution(
        "Unfinished.",
        "The folder has no summary: the run goes on, or it was killed. The numbers are "
        f"those of the last line logged, step {outcome.step:,}; steps taken since then "
        "have spent more than is stated here.",
    )


def _command(command: Any) -> list[str]:
    """Return the words of the command that made the run, if it was recorded."""
    if isinstance(command, list):
        return [shlex.quote(words.plain(part)) for part in command]
    return words.plain(command).split() if command else []


def _evaluations(run: Run) -> dict[str, Any]:
    """Return the table behind the charts: epsilon and public metrics, thinned."""
    lines = [line for line in run.lines if line["public"]]
    count = len(lines)
    kept = np.unique(np.linspace(0, count - 1, min(count, _TABLE_ROWS)).round())
    metrics = list(dict.fromkeys(key for line in lines for key in line["public"]))
    methods = [b.key for line in lines for b in words.bounds(line["epsilon"])]
    methods = list(dict.fromkeys(methods)) if run.config["private"] else []
    head = ["Step", *(f"Epsilon, {words.method(key)}" for key in methods)]
    rows = []
    for line in (lines[int(index)] for index in kept):
        epsilons = [as_number(line["epsilon"].get(key)) for key in methods]
        values = [(key, as_number(line["public"].get(key))) for key in metrics]
        rows.append(
            [
                f"{line['step']:,}",
                *("" if e is None else page.number_up(e, 4) for e in epsilons),
                *("" if v is None else run_charts.form(key, v) for key, v in values),
            ]
        )
    return {"head": head + [page.label(key) for key in metrics], "rows": rows}
