"""The bench of audits. Run me as a script; README's tables are my output.

Trainers with one bug each, and those of this library and of its peers, are put to the
same checks: attacks that bound epsilon from below, and invariants of what is released.
Peers that are not installed are left out, with a line that says so; Opacus's
interpreter is `--opacus_python`.
"""

import contextlib
import dataclasses
import json
import math
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import app, flags

# What the tests share lies beside them.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import accounting_client
import audits_tables
import audits_trainers
import machine
import table
from broken_trainers import TRAINERS, Trainer
from trainer_attacks import SAMPLED, SAMPLED_DELTA
from trainer_checks import CHECKS
from trainer_terms import Terms, Verdict

HERE = pathlib.Path(__file__).resolve().parent
README = HERE.parents[1] / "README.md"
RESULTS = HERE / "audits_results.json"
PACKAGES = ("dpjax", "jax", "optax", "jax-privacy", "numpy", "scipy")
OPACUS = {"opacus": True, "opacus_unsampled": False}
PARTS = ("broken", *audits_trainers.PARTS, *OPACUS)

Row = dict[str, Any]


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of the command."""
    own: dict[str, Any] = {"flag_values": flag_values}
    text = (
        f"What to check, any of: {', '.join(PARTS)}. The others stay as they were "
        "measured last."
    )
    flags.DEFINE_list("parts", list(PARTS), text, **own)
    text = "Interpreter that has Opacus."
    flags.DEFINE_string("opacus_python", None, text, **own)
    flags.DEFINE_string("out", None, "Folder for results.json and table.md.", **own)
    for name, default, text in (
        ("quick", False, "Hardly any runs: a trial, no measurement."),
        ("measure", True, "Measure; else only write out the results that are kept."),
        ("write_readme", False, "Keep the results, and put their tables into README."),
    ):
        flags.DEFINE_bool(name, default, text, **own)
    text = "Runs of libraries, as a share of those of the trainers with a bug."
    flags.DEFINE_float("effort", 0.2, text, lower_bound=0.0, **own)


def measure(flag_values: flags.FlagValues) -> dict[str, Any]:
    """Run the bench that the flags describe; return what there is to know of it.

    Raises:
        ValueError: If a flag names what is not there.
    """
    for part in flag_values.parts:
        if part not in PARTS:
            listed = ", ".join(map(repr, PARTS))
            raise ValueError(f"Expected any of {listed}, got parts={part!r}.")
    run = _start(flag_values)
    scale = 0.05 if flag_values.quick else 1.0
    if "broken" in flag_values.parts:
        run["broken"] = [
            checked(name, trainer, Terms(effort=scale))
            for name, trainer in TRAINERS.items()
        ]
    for part in flag_values.parts:
        if part == "broken":
            continue
        with contextlib.ExitStack() as stack:
            found = _library(part, scale * flag_values.effort, flag_values, stack)
        if isinstance(found, str):
            run["skipped"].append(f"{audits_tables.TITLES[part]}: left out, {found}.")
        else:
            run["libraries"][part] = found
    known = [part for part in PARTS if part in run["libraries"]]
    run["libraries"] = {part: run["libraries"][part] for part in known}
    return run


def checked(title: str, trainer: Trainer, terms: Terms) -> Row:
    """Return the verdicts of all checks of a trainer, None where one does not apply."""
    row: Row = {"trainer": title, "absent": terms.absent, "checks": {}}
    for name, check in CHECKS.items():
        verdict = check(trainer, terms)
        row["checks"][name] = None if verdict is None else _plain(verdict)
    caught = [
        name for name, found in row["checks"].items() if found and found["caught"]
    ]
    print(
        f"{title}, {terms.absent}: {', '.join(caught) or 'nothing found'}", flush=True
    )
    return row


def read_results() -> dict[str, Any] | None:
    """Return the run that is kept beside this file, if one is."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else None


def write_out(run: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Write results.json and table.md into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(run, folder / "results.json")
    (folder / "table.md").write_text(audits_tables.render(run))


def main(argv: Sequence[str]) -> None:
    """Measure, print the tables, and write what the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags alone, got {argv[1:]}.")
    values = flags.FLAGS
    run = measure(values) if values.measure else read_results()
    if run is None:
        raise app.UsageError("Expected results that are kept, got none.")
    text = audits_tables.render(run)
    print("\n" + text)
    if values.out:
        write_out(run, pathlib.Path(values.out))
    if values.write_readme:
        if run["settings"]["quick"]:
            raise app.UsageError("Expected a measurement to keep, got --quick.")
        _write(run, RESULTS)
        marks = audits_tables.MARKS
        README.write_text(table.replace_block(README.read_text(), text, marks))


def _start(values: flags.FlagValues) -> dict[str, Any]:
    """Return a run of nothing yet, with what is kept of the parts left out."""
    kept = {} if values.quick else (read_results() or {})
    return {
        "machine": {"versions": machine.versions(PACKAGES)},
        "settings": {"quick": values.quick},
        "promise": {
            "delta": SAMPLED_DELTA,
            "epsilon": float(SAMPLED.epsilon(SAMPLED_DELTA)),
        },
        "broken": kept.get("broken", []),
        "libraries": kept.get("libraries", {}),
        "skipped": [],
    }


def _library(
    part: str, effort: float, values: flags.FlagValues, stack: contextlib.ExitStack
) -> Row | str:
    """Return the rows of one library, or why there are none."""
    found: Row = {"versions": {}, "stated": None, "effort": effort}
    if part in OPACUS:
        if not values.opacus_python:
            return "there is no --opacus_python"
        trainer: Any = stack.enter_context(_opacus(values.opacus_python, OPACUS[part]))
        found["versions"] = trainer.versions()
        found["stated"] = trainer.epsilon(SAMPLED, SAMPLED_DELTA)
    elif why := audits_trainers.missing(part):
        return why
    else:
        trainer = audits_trainers.JaxTrainer(part)
    terms = Terms(effort=effort, samples=part not in audits_trainers.TAKE_BATCHES)
    found["rows"] = [
        checked(part, trainer, dataclasses.replace(terms, absent=absent))
        for absent in ("removed", "null")
    ]
    return found


@contextlib.contextmanager
def _opacus(python: str, poisson: bool) -> Iterator[audits_trainers.OpacusTrainer]:
    command = [python, "-W", "ignore", str(HERE / "opacus_audits.py")]
    with (
        accounting_client.Client("opacus", command, 3600.0) as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        yield audits_trainers.OpacusTrainer(client, pathlib.Path(folder), poisson)


def _plain(verdict: Verdict) -> Row:
    """Return a verdict ready for JSON, which has no infinity."""
    found = float(verdict.found)
    return {
        "caught": bool(verdict.caught),
        "found": "inf" if math.isinf(found) else found,
        "allowed": float(verdict.allowed),
        "where": verdict.where,
    }


def _write(run: Mapping[str, Any], path: pathlib.Path) -> None:
    path.write_text(json.dumps(run, indent=1) + "\n")


if __name__ == "__main__":
    define_flags()
    app.run(main)
