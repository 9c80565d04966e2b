"""The bench of audits. Run me as a script; README's tables are my output.

Trainers with one bug each, and those of this library and of its peers, are put to the
same checks: attacks that bound epsilon from below, and invariants of what is released.
Peers that are not installed are left out, with a line that says so; Opacus's
interpreter is `--opacus_python`.
"""

import contextlib
import dataclasses
import math
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from absl import app, flags

# What the tests share lies beside them.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import accounting_client
import audits_tables
import audits_trainers
import command
import machine
from broken_trainers import TRAINERS, Trainer
from trainer_attacks import SAMPLED, SAMPLED_DELTA
from trainer_checks import CHECKS
from trainer_terms import Terms, Verdict

HERE = pathlib.Path(__file__).resolve().parent
README = HERE.parents[1] / "README.md"
PACKAGES = ("dpjax", "jax", "optax", "jax-privacy", "numpy", "scipy")
OPACUS = {"opacus": True, "opacus_unsampled": False}
PARTS = ("broken", *audits_trainers.PARTS, *OPACUS)
COMMAND = command.Command(
    PARTS,
    pathlib.Path(__file__).with_name("audits_results.json"),
    audits_tables.render,
    audits_tables.MARKS,
)

Row = dict[str, Any]


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of the command."""
    COMMAND.define_flags(flag_values, quick="Hardly any runs")
    text = "Interpreter that has Opacus."
    flags.DEFINE_string("opacus_python", None, text, flag_values=flag_values)
    text = "Runs of libraries, as a share of those of the trainers with a bug."
    flags.DEFINE_float("effort", 0.2, text, lower_bound=0.0, flag_values=flag_values)


def measure(flag_values: flags.FlagValues) -> dict[str, Any]:
    """Run the bench that the flags describe; return what there is to know of it.

    Raises:
        ValueError: If a flag names what is not there.
    """
    COMMAND.check_parts(flag_values.parts)
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


def main(argv: Sequence[str]) -> None:
    """Measure, print the tables, and write what the flags ask for."""
    COMMAND.carry_out(argv, measure)


def _start(values: flags.FlagValues) -> dict[str, Any]:
    """Return a run of nothing yet, with what is kept of the parts left out."""
    kept = {} if values.quick else (COMMAND.read_results() or {})
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


if __name__ == "__main__":
    define_flags()
    app.run(main)
