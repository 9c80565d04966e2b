"""The benchmark of audits. Run me as a script; README's table is my output.

How close the lower bounds come to the epsilon of a mechanism that is known: what
guesses of both kinds and a mechanism's own trade-off curve gain on the same run, at the
numbers of right guesses to be expected, and bounds of simulated runs against the number
of canaries.
"""

import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import audit_scenes
import audit_tables
import machine
import numpy as np
import table
from absl import app, flags

import dpjax
from dpjax import auditing

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RESULTS = pathlib.Path(__file__).with_name("audit_results.json")
PARTS = ("guesses", "curves", "power")
PACKAGES = ("dpjax", "numpy", "scipy")

DELTA, SIGNIFICANCE = audit_tables.DELTA, audit_tables.SIGNIFICANCE
GUESSES = ((200, 1.0), (1000, 0.5), (1000, 1.0), (1000, 2.0), (1000, 4.0))
"""Canaries, and the distance of their scores."""
MECHANISMS = ((0.1, 100, 1.0), (0.5, 4, 1.0), (0.05, 20, 0.5))
"""Sampling rate, steps, noise multiplier; 1000 canaries."""
POWER_MU, SIZES = 1.0, (50, 100, 200, 500, 1000, 2000, 5000)

Run = Mapping[str, Any]


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of the command."""
    own: dict[str, Any] = {"flag_values": flag_values}
    text = (
        f"Tables to measure, any of: {', '.join(PARTS)}. The others stay as they were "
        "measured last."
    )
    flags.DEFINE_list("parts", list(PARTS), text, **own)
    text = "Folder for results.json, table.md and power.svg."
    flags.DEFINE_string("out", None, text, **own)
    for name, default, text in (
        ("quick", False, "Few and small questions: a trial, no measurement."),
        ("measure", True, "Measure; else only write out the results that are kept."),
        ("write_readme", False, "Keep the results, and put their tables into README."),
    ):
        flags.DEFINE_bool(name, default, text, **own)
    text = "Simulated runs of each size."
    flags.DEFINE_integer("trials", 40, text, lower_bound=2, **own)


def measure(flag_values: flags.FlagValues) -> dict[str, Any]:
    """Run the benchmark that the flags describe; return what there is to know of it.

    Raises:
        ValueError: If a flag names what is not there.
    """
    for part in flag_values.parts:
        if part not in PARTS:
            raise ValueError(f"Expected any of {PARTS}, got parts={part!r}.")
    quick, trials = flag_values.quick, flag_values.trials
    run: dict[str, Any] = {
        "versions": machine.versions(PACKAGES),
        "settings": {"quick": quick, "trials": trials},
    }
    measures: dict[str, Callable[[], Any]] = {
        "guesses": lambda: [guesses_row(*row) for row in GUESSES[: 1 if quick else 9]],
        "curves": lambda: [] if quick else [curves_row(*row) for row in MECHANISMS],
        "power": lambda: [power_row(n, trials) for n in SIZES[: 1 if quick else 9]],
    }
    kept = read_results() or {}
    found = {part: measures[part]() for part in flag_values.parts}
    return {part: kept.get(part, []) for part in PARTS} | run | found


def guesses_row(canaries: int, mu: float) -> dict[str, Any]:
    """Return bounds from guesses of one kind and of both, on the same scores."""
    bounds = {
        f"{method}_{sides}": audit_scenes.best(
            functools.partial(_one_run, canaries, method=method),
            functools.partial(
                audit_scenes.normal_guesses, mu, canaries, two_sided=sides == "both"
            ),
        )
        for method in ("dp", "fdp")
        for sides in ("in", "both")
    }
    theory = float(dpjax.accounting.event_epsilon(_gaussian(mu), DELTA))
    return {"canaries": canaries, "mu": mu, "theory": theory, "bounds": bounds}


def curves_row(rate: float, steps: int, noise: float) -> dict[str, Any]:
    """Return bounds with the Gaussian family and with the mechanism's own curves."""
    mechanism = audit_scenes.Mechanism(rate, steps, noise)
    random, canaries = np.random.default_rng(0), 1000
    scores = tuple(
        mechanism.scores(audit_scenes.SAMPLE, inside, random)
        for inside in (True, False)
    )
    options: dict[str, dict[str, Any]] = {
        "dp": {"method": "dp"},
        "gaussian": {"method": "fdp"},
    }
    guesses = functools.partial(audit_scenes.expected_guesses, scores, canaries)
    bounds = {
        name: audit_scenes.best(
            functools.partial(_one_run, canaries, **chosen), guesses
        )
        for name, chosen in options.items()
    }
    # Its curves take seconds each: one share of guesses, the best for the other.
    shares = np.geomspace(0.01, 1, 25)
    share = max(
        shares, key=lambda share: _one_run(canaries, *guesses(share), method="fdp")
    )
    bounds["own"] = _one_run(
        canaries, *guesses(share), method="fdp", mechanism=mechanism.event
    )
    return {
        "rate": rate,
        "steps": steps,
        "noise": noise,
        "canaries": canaries,
        "theory": mechanism.epsilon(DELTA),
        "bounds": bounds,
    }


def power_row(canaries: int, trials: int) -> dict[str, Any]:
    """Return quantiles of the bounds of simulated runs, and how many were too high."""
    theory = float(dpjax.accounting.event_epsilon(_gaussian(POWER_MU), DELTA))
    found: dict[str, list[float]] = {name: [] for name in audit_tables.METHODS}
    random = np.random.default_rng(canaries)
    for _ in range(trials):
        for name, bound in simulated(canaries, random).items():
            found[name].append(bound)
    return {
        "canaries": canaries,
        "theory": theory,
        "quantiles": {
            name: np.quantile(bounds, [0.05, 0.5, 0.95]).tolist()
            for name, bounds in found.items()
        },
        "too_high": {
            name: float(np.mean(np.array(bounds) > theory))
            for name, bounds in found.items()
        },
    }


def simulated(canaries: int, random: np.random.Generator) -> dict[str, float]:
    """Return the bounds of one simulated run with fair coins."""
    inside = random.random(canaries) < 0.5
    scores = random.normal(size=canaries) + POWER_MU * inside
    each = canaries // 8  # a quarter of the canaries is guessed about, fixed before
    order = np.argsort(scores)
    right = int(inside[order[-each:]].sum() + (~inside[order[:each]]).sum())
    bounds = {
        name: _one_run(canaries, 2 * each, right, method=name) for name in ("dp", "fdp")
    }
    for name in ("clopper_pearson", "gdp"):
        bounds[name] = float(
            auditing.epsilon_from_scores(
                scores[inside],
                scores[~inside],
                delta=DELTA,
                significance=SIGNIFICANCE,
                method=name,
            )
        )
    return bounds


def read_results() -> dict[str, Any] | None:
    """Return the run that is kept beside this file, if one is."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else None


def write_out(run: Run, folder: pathlib.Path) -> None:
    """Write results.json, table.md and the power curve into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(run, folder / "results.json")
    (folder / "table.md").write_text(audit_tables.render(run))
    if run["power"]:
        audit_tables.draw(run["power"], folder / "power.svg")


def main(argv: Sequence[str]) -> None:
    """Measure, print the tables, and write what the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags alone, got {argv[1:]}.")
    values = flags.FLAGS
    run = measure(values) if values.measure else read_results()
    if run is None:
        raise app.UsageError("Expected results that are kept, got none.")
    print("\n" + audit_tables.render(run))
    if values.out:
        write_out(run, pathlib.Path(values.out))
    if values.write_readme:
        if run["settings"]["quick"]:
            raise app.UsageError("Expected a measurement to keep, got --quick.")
        _write(run, RESULTS)
        README.write_text(
            table.replace_block(
                README.read_text(), audit_tables.render(run), audit_tables.MARKS
            )
        )


def _one_run(canaries: int, guesses: int, correct: int, **options: Any) -> float:
    return float(
        auditing.one_run_epsilon(
            num_canaries=canaries,
            num_guesses=max(1, guesses),
            num_correct=correct,
            delta=DELTA,
            significance=SIGNIFICANCE,
            **options,
        )
    )


def _gaussian(mu: float) -> Any:
    return audit_scenes.Mechanism(1.0, 1, 1 / mu).event(1 / mu)


def _write(run: Run, path: pathlib.Path) -> None:
    path.write_text(json.dumps(run, indent=1) + "\n")


if __name__ == "__main__":
    define_flags()
    app.run(main)
