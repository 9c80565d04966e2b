"""The benchmark of audits. Run me as a script; README's table is my output.

How close the lower bounds come to the epsilon of a mechanism that is known: what
guesses of both kinds and a mechanism's own trade-off curve gain on the same run, at the
numbers of right guesses to be expected, and bounds of simulated runs against the number
of canaries.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import audit_scenes
import audit_tables
import command
import machine
import numpy as np
from absl import app, flags

import dpjax
from dpjax import auditing

PARTS = ("guesses", "curves", "power")
COMMAND = command.Command(
    PARTS,
    pathlib.Path(__file__).with_name("audit_results.json"),
    audit_tables.render,
    audit_tables.MARKS,
)
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
    COMMAND.define_flags(
        flag_values,
        out="Folder for results.json, table.md and power.svg.",
        quick="Few and small questions",
    )
    text = "Simulated runs of each size."
    flags.DEFINE_integer("trials", 40, text, lower_bound=2, flag_values=flag_values)


def measure(flag_values: flags.FlagValues) -> dict[str, Any]:
    """Run the benchmark that the flags describe; return what there is to know of it.

    Raises:
        ValueError: If a flag names what is not there.
    """
    COMMAND.check_parts(flag_values.parts)
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
    kept = COMMAND.read_results() or {}
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


def write_out(run: Run, folder: pathlib.Path) -> None:
    """Write results.json, table.md and the power curve into a folder."""
    COMMAND.write_out(run, folder)
    if run["power"]:
        audit_tables.draw(run["power"], folder / "power.svg")


def main(argv: Sequence[str]) -> None:
    """Measure, print the tables, and write what the flags ask for."""
    COMMAND.carry_out(argv, measure, write_out)


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


if __name__ == "__main__":
    define_flags()
    app.run(main)
