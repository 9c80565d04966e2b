"""The benchmark of clipped gradients. Run me as a script; README's table is my output.

Everything of one row is timed side by side in one process; the ratios are what counts,
not the milliseconds. Peers that are not installed are left out, with a line that says
so. Opacus runs in an environment of its own, whose interpreter is `--opacus_python`.
"""

import json
import pathlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import contestants
import gradients
import jax
import jax.numpy as jnp
import keeping
import machine
import opacus_peer
import plot
import programs
import scaling
import steps
import table
import workloads
from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RESULTS = pathlib.Path(__file__).with_name("results.json")
PARTS = ("gradients", "steps", "scaling")
EVERYONE = (*contestants.CONTESTANTS, *contestants.OPACUS)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of the command."""
    for name, known, text in (
        ("models", workloads.SPECS, "Rows; on a CPU, those for GPUs are skipped."),
        ("contestants", EVERYONE, "Columns; the plain gradient is always one."),
        ("parts", PARTS, "Tables to measure."),
    ):
        listed = f"{text} Any of: {', '.join(known)}."
        flags.DEFINE_list(name, list(known), listed, flag_values=flag_values)
    for name, text in (
        ("out", "Folder for results.json, table.md and ratios.svg."),
        ("opacus_python", "Interpreter that has PyTorch and Opacus."),
    ):
        flags.DEFINE_string(name, None, text, flag_values=flag_values)
    for name, default, text in (
        ("quick", False, "Tiny sizes: a trial of the command, no measurement."),
        ("measure", True, "Measure; else only write out the results that are kept."),
        ("write_readme", False, "Keep the results, and put their tables into README."),
    ):
        flags.DEFINE_bool(name, default, text, flag_values=flag_values)
    for name, default, text in (
        ("rounds", 15, "Rounds of each side-by-side timing."),
        ("max_gigabytes", 12, "Temporaries above which a contestant is dropped."),
    ):
        flags.DEFINE_integer(
            name, default, text, lower_bound=1, flag_values=flag_values
        )


def measure(flag_values: flags.FlagValues) -> dict[str, Any]:
    """Run the benchmark that the flags describe; return what there is to know of it.

    Raises:
        ValueError: If a flag names what is not there.
    """
    for name, known in (
        ("models", workloads.SPECS),
        ("contestants", EVERYONE),
        ("parts", PARTS),
    ):
        _check_known(name, flag_values[name].value, known)
    options = programs.Options(
        flag_values.rounds, flag_values.quick, 1e9 * flag_values.max_gigabytes
    )
    names, skipped = _runnable(flag_values.models, jax.default_backend())
    chosen = [name for name in EVERYONE if name in flag_values.contestants]
    settings = {"rounds": options.rounds, "quick": options.quick, "contestants": chosen}
    run = {"machine": machine.describe(), "settings": settings, "skipped": skipped}
    run |= {part: [] for part in PARTS}
    programs.compiled(jnp.sin, (jnp.zeros(8),), 1)  # what only the first one pays for
    for part in flag_values.parts:
        for row in _rows(part, names, chosen, flag_values.opacus_python, options):
            run["machine"]["versions"] |= row.pop("versions", {})
            run[part].append(row)
            print(table.row_line(part, row), flush=True)
    return run


def kept_runs(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the runs that are kept, with this one's rows in the place of theirs."""
    if run["settings"]["quick"]:
        raise ValueError("Expected a measurement to keep, got quick=True.")
    runs = {kept["machine"]["backend"]: kept for kept in read_results()}
    backend = run["machine"]["backend"]
    if backend in runs:
        run = keeping.brought_together(runs[backend], run, EVERYONE)
    return list((runs | {backend: run}).values())


def read_results() -> list[dict[str, Any]]:
    """Return the runs that are kept beside this file."""
    return json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []


def write_out(runs: Sequence[dict[str, Any]], folder: pathlib.Path) -> None:
    """Write results.json, table.md and a picture for each backend into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_results(runs, folder / "results.json")
    (folder / "table.md").write_text(table.render(runs))
    for run in runs:
        if run["gradients"]:
            name = f"ratios_{run['machine']['backend']}.svg"
            plot.save(run["gradients"], folder / name)


def main(argv: Sequence[str]) -> None:
    """Measure, print the tables, and write what the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags alone, got {argv[1:]}.")
    values = flags.FLAGS
    runs = [measure(values)] if values.measure else read_results()
    print("\n" + table.render(runs))
    if values.out:
        write_out(runs, pathlib.Path(values.out))
    if values.write_readme:
        if values.measure:
            runs = kept_runs(runs[0])
            _write_results(runs, RESULTS)
        README.write_text(table.replace_block(README.read_text(), table.render(runs)))


def _check_known(name: str, values: Collection[str], known: Collection[str]) -> None:
    for value in values:
        if value not in known:
            listed = ", ".join(map(repr, known))
            raise ValueError(f"Expected any of {listed}, got {name}={value!r}.")


def _runnable(names: Sequence[str], backend: str) -> tuple[list[str], list[str]]:
    """Return the rows to measure, and lines that say what is skipped."""
    if backend == "gpu":
        return list(names), []
    large = [name for name in names if workloads.SPECS[name].gpu]
    titles = ", ".join(workloads.SPECS[name].title for name in large)
    line = f"{titles}: skipped, there is no GPU here."
    print(line * bool(large))
    return [name for name in names if name not in large], [line] * bool(large)


def _rows(
    part: str,
    names: Sequence[str],
    chosen: Sequence[str],
    opacus_python: str | None,
    options: programs.Options,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one table."""
    if part == "scaling":
        yield from scaling.measure(options)
        return
    for name in names:
        if part == "steps":
            yield steps.measure(name, options)
            continue
        here = [key for key in chosen if key in contestants.CONTESTANTS]
        there = [key for key in chosen if key in contestants.OPACUS]
        row = gradients.measure(name, here, options)
        if there and opacus_python:
            answer = opacus_peer.measure(opacus_python, row, there, options)
            row["contestants"] |= answer.pop("contestants")
            row |= answer
        yield row


def _write_results(runs: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    path.write_text(json.dumps({"runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    define_flags()
    app.run(main)
