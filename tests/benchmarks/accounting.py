"""The benchmark of accountants. Run me as a script; README's tables are my output.

Every accountant answers in a process of its own, with one thread, in processor time;
all answer a question before the next one is put. Peers that are not installed are left
out, with a line that says so; Opacus's interpreter is `--opacus_python`.
"""

import contextlib
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import accounting_client
import accounting_peers
import accounting_tables
import accounting_tasks
import machine
import table
from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RESULTS = pathlib.Path(__file__).with_name("accounting_results.json")
PACKAGES = ("dpjax", "dp-accounting", "prv-accountant", "numpy", "scipy")
EVERYONE = (*accounting_peers.TASKS, "opacus")


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of the command."""
    own: dict[str, Any] = {"flag_values": flag_values}
    text = f"Columns, beside exact. Any of: {', '.join(EVERYONE)}."
    flags.DEFINE_list("accountants", list(EVERYONE), text, **own)
    text = (
        f"Tables to measure, any of: {', '.join(accounting_tasks.PARTS)}. The others "
        "stay as they were measured last."
    )
    flags.DEFINE_list("parts", list(accounting_tasks.PARTS), text, **own)
    text = "Interpreter that has Opacus."
    flags.DEFINE_string("opacus_python", None, text, **own)
    flags.DEFINE_string("out", None, "Folder for results.json and table.md.", **own)
    for name, default, text in (
        ("quick", False, "Few and small questions: a trial, no measurement."),
        ("measure", True, "Measure; else only write out the results that are kept."),
        ("write_readme", False, "Keep the results, and put their tables into README."),
    ):
        flags.DEFINE_bool(name, default, text, **own)
    flags.DEFINE_integer("rounds", 3, "Times that a question is put.", **own)
    flags.DEFINE_float("limit", 60.0, "Seconds after which one is given up.", **own)


def measure(flag_values: flags.FlagValues) -> dict[str, Any]:
    """Run the benchmark that the flags describe; return what there is to know of it.

    Raises:
        ValueError: If a flag names what is not there.
    """
    for name, known in (
        ("accountants", EVERYONE),
        ("parts", accounting_tasks.PARTS),
    ):
        for value in flag_values[name].value:
            if value not in known:
                listed = ", ".join(map(repr, known))
                raise ValueError(f"Expected any of {listed}, got {name}={value!r}.")
    commands, skipped = _commands(flag_values.accountants, flag_values.opacus_python)
    options = accounting_tasks.Options(flag_values.rounds, flag_values.quick)
    run: dict[str, Any] = {
        "machine": {"chip": machine.cpu_name(), "versions": machine.versions(PACKAGES)},
        "settings": {
            "rounds": flag_values.rounds,
            "quick": flag_values.quick,
            "limit": flag_values.limit,
            "accountants": list(commands),
        },
        "skipped": skipped,
    }
    with contextlib.ExitStack() as stack:
        clients = {
            name: stack.enter_context(
                accounting_client.Client(name, command, flag_values.limit)
            )
            for name, command in commands.items()
        }
        for part in flag_values.parts:
            run[part] = accounting_tasks.PARTS[part](clients, options)
    kept = read_results() or {}
    return {part: kept.get(part, []) for part in accounting_tasks.PARTS} | run


def read_results() -> dict[str, Any] | None:
    """Return the run that is kept beside this file, if one is."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else None


def write_out(run: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Write results.json and table.md into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(run, folder / "results.json")
    (folder / "table.md").write_text(accounting_tables.render(run))


def main(argv: Sequence[str]) -> None:
    """Measure, print the tables, and write what the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags alone, got {argv[1:]}.")
    values = flags.FLAGS
    run = measure(values) if values.measure else read_results()
    if run is None:
        raise app.UsageError("Expected results that are kept, got none.")
    if values.out:
        write_out(run, pathlib.Path(values.out))
    text = accounting_tables.render(run)
    print("\n" + text)
    if values.write_readme:
        if run["settings"]["quick"]:
            raise app.UsageError("Expected a measurement to keep, got --quick.")
        _write(run, RESULTS)
        marks = accounting_tables.MARKS
        README.write_text(table.replace_block(README.read_text(), text, marks))


def _commands(
    chosen: Sequence[str], opacus_python: str | None
) -> tuple[dict[str, list[str]], list[str]]:
    """Return how each accountant is started, and lines that say what is left out."""
    commands, skipped = {}, []
    script = str(accounting_client.HERE / "accounting_peers.py")
    for name in accounting_peers.TASKS:
        if why := accounting_peers.missing(name):
            skipped.append(f"{accounting_tables.TITLES[name]}: left out, {why}.")
        elif name == "exact" or name in chosen:
            commands[name] = [sys.executable, script, name]
    if "opacus" in chosen and opacus_python:
        script = str(accounting_client.HERE / "opacus_accounting.py")
        commands["opacus"] = [opacus_python, "-W", "ignore", script]
    elif "opacus" in chosen:
        skipped.append("Opacus RDP: left out, there is no --opacus_python.")
    return commands, skipped


def _write(run: Mapping[str, Any], path: pathlib.Path) -> None:
    path.write_text(json.dumps(run, indent=1) + "\n")


if __name__ == "__main__":
    define_flags()
    app.run(main)
