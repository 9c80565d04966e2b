"""The benchmark of mechanisms. Run me as a script; README's table is my output.

The main job, with one thing changed at a time and the noise solved for anew, so that
all rows spend the same epsilon: what each mechanism is worth in test accuracy. All
other settings are those of the main job's preset, unless a row names its own.
"""

import contextlib
import functools
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import command
import machine
import mechanisms_tables
from absl import app, flags, logging

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples"))

import searching  # isort: skip
import train  # isort: skip
import train_flags  # isort: skip

_CYCLIC = ("--sampling=cyclic_poisson", "--period=2")
_FIXED = ("--sampling=deterministic",)
_WHOLE = (*_FIXED, "--batch_size=4000", "--steps=60")
_LINEAR = ("--model=linear",)
_MOMENTUM = ("--optimizer=momentum", "--learning_rate=1")
_HALF = ("--steps=50", "--budget_file=budget.json", "--budget_epsilon=3")

ROWS: dict[str, tuple[str, ...]] = {
    "the main job": (),
    "clipping each layer": ("--clipping=per_layer",),
    "clipping each layer, by dimension": ("--clipping=per_layer_by_dimension",),
    "automatic clipping": ("--clipping=automatic",),
    "normalised gradients": ("--clipping=normalised",),
    "per-sample adaptive clipping": ("--clipping=per_sample_adaptive",),
    "adaptive clip norm": ("--clipping=adaptive",),
    "noise that falls": ("--noise_ratio=0.7",),
    "noise chosen on the way": (*_HALF, "--take_rest", "--start_from=before"),
    "clip norm that falls": ("--clipping=scheduled", "--final_l2_norm_clip=0.2"),
    "scaled, then clipped": ("--clipping=scaled", "--stability=0.001"),
    "SGD with momentum": _MOMENTUM,
    "DP-AdamBC": ("--optimizer=corrected_adam", "--learning_rate=0.003"),
    "sharpness-aware": ("--sharpness_radius=0.05",),
    "moving average of parameters": ("--ema_decay=0.9",),
    "4 views of each example": ("--augmentations=4",),
    "last layer alone": ("--train_only=logits",),
    "adapters of rank 4": ("--adapter_rank=4",),
    "4 examples an owner": ("--unit_size=4", "--batch_size=250"),
    "learning rate searched": (
        "--search=learning_rate=0.003,0.01,0.03",
        "--search_runs=3",
    ),
    "linear model": _LINEAR,
    "linear model, sparse rows": (
        *_LINEAR,
        "--clipping=sparse_rows",
        "--tables=kernel",
        "--row_threshold=40",
    ),
    "truncated Poisson": ("--sampling=truncated_poisson", "--max_batch_size=1200"),
    "balls in bins": ("--sampling=balls_in_bins",),
    "random allocation": ("--sampling=random_allocation", "--total_participations=25"),
    "b-min-sep": ("--sampling=b_min_sep", "--min_separation=2"),
    "cyclic Poisson": _CYCLIC,
    "cyclic Poisson, banded": (*_CYCLIC, "--correlated_noise=banded", "--bands=2"),
    "fixed size": ("--sampling=fixed_size",),
    "fixed size, with replacement": ("--sampling=fixed_size_with_replacement",),
    "shuffled": ("--sampling=shuffle",),
    "fixed order": _FIXED,
    "fixed order, all examples a step": _WHOLE,
    "fixed order, all examples, budgets of their own": (*_WHOLE, "--full_steps=54"),
    "fixed order, discrete noise": (*_FIXED, "--noise=discrete"),
    "fixed order, discrete noise, rounded examples": (
        *_FIXED,
        "--noise=discrete",
        "--rounding=examples",
    ),
    "fixed order, tree": (*_FIXED, "--correlated_noise=tree"),
    "fixed order, square root": (*_FIXED, "--correlated_noise=square_root"),
    "fixed order, Toeplitz": (*_FIXED, "--correlated_noise=toeplitz"),
    "fixed order, BLT": (*_FIXED, "--correlated_noise=buffered_toeplitz"),
    "fixed order, banded inverse": (
        *_FIXED,
        "--correlated_noise=banded_inverse",
    ),
    "fixed order, momentum": (*_FIXED, *_MOMENTUM),
    "fixed order, momentum, Toeplitz": (
        *_FIXED,
        "--correlated_noise=toeplitz",
        *_MOMENTUM,
    ),
    "fixed order, DP-FTRL": (
        *_FIXED,
        "--correlated_noise=toeplitz",
        "--optimizer=ftrl",
        "--learning_rate=1",
    ),
}
"""What is changed, as flags of train.py."""

BEFORE: dict[str, tuple[str, ...]] = {
    "noise chosen on the way": (*_HALF, "--noise_multiplier=4.5"),
}
"""Of rows that are two runs, the flags of the first, which is trained in `before`."""

COMMAND = command.Command(
    tuple(ROWS),
    pathlib.Path(__file__).with_name("mechanisms_results.json"),
    mechanisms_tables.render,
    mechanisms_tables.MARKS,
)
_OTHER_SEEDS = 1000
TINY = ("--steps=2", "--batch_size=64", "--model=linear")

Run = Mapping[str, Any]


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of the command."""
    COMMAND.define_flags(flag_values, quick="Two steps of a linear model")
    text = "Runs of each row, each with a seed of its own."
    flags.DEFINE_integer("seeds", 3, text, lower_bound=1, flag_values=flag_values)


def measure(flag_values: flags.FlagValues) -> dict[str, Any]:
    """Run the benchmark that the flags describe; return what there is to know of it.

    Raises:
        ValueError: If a flag names what is not there.
    """
    COMMAND.check_parts(flag_values.parts)
    kept = (COMMAND.read_results() or {}).get("rows", {})
    found = {
        part: row(part, flag_values.seeds, quick=flag_values.quick)
        for part in flag_values.parts
    }
    rows = {part: (kept | found).get(part) for part in ROWS}
    return {
        "machine": machine.describe(),
        "settings": {"seeds": flag_values.seeds, "quick": flag_values.quick},
        "rows": {part: row for part, row in rows.items() if row},
    }


def row(name: str, seeds: int, *, quick: bool) -> dict[str, Any]:
    """Return what a row's runs reached, and what they spent."""
    is_search = any(flag.startswith("--search=") for flag in ROWS[name])
    one = functools.partial(_searched if is_search else _one, name, quick=quick)
    summaries = [one(seed) for seed in range(seeds)]
    accuracies = [100 * found["public"]["test_accuracy"] for found in summaries]
    print(f"{name}: {', '.join(f'{a:.1f}' for a in accuracies)}", flush=True)
    first = [*BEFORE[name], "then"] if name in BEFORE else []
    return {
        "flags": [*first, *ROWS[name]],
        "accuracies": accuracies,
        "mean": statistics.mean(accuracies),
        "noise_multiplier": summaries[0]["noise_multiplier"],
        "epsilon": _epsilon(summaries[0]),
        "relation": summaries[0]["neighboring_relation"],
        "seconds": statistics.median(run["elapsed_seconds"] for run in summaries),
    }


def _epsilon(summary: Run) -> float:
    """Return what is promised: of a run, or of all that share its budget."""
    shared = summary["privacy_filter"]
    return shared["epsilon"] if shared else summary["epsilon"]["exact"]


def _one(name: str, seed: int, *, quick: bool) -> dict[str, Any]:
    """Train a row; return the summary, with what the mechanism says of itself."""
    tiny = TINY if quick else ()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        before = {}
        if name in BEFORE:
            before = _trained("before", _OTHER_SEEDS + seed, *BEFORE[name], *tiny)
        found = _trained("run", seed, *ROWS[name], *tiny)
    seconds = found["elapsed_seconds"] + before.get("elapsed_seconds", 0.0)
    return found | {"elapsed_seconds": seconds}


def _trained(run_dir: str, seed: int, *own: str) -> dict[str, Any]:
    flag_values = flags.FlagValues()
    train_flags.define_flags(flag_values)
    always = [f"--seed={seed}", f"--run_dir={run_dir}", "--noprogress"]
    train.parse(["train.py", *always, *own], flag_values)
    result = train.train(flag_values)
    assert result.run_dir is not None
    config = json.loads((result.run_dir / "config.json").read_text())
    return config["mechanism"] | result.summary


def _searched(name: str, seed: int, *, quick: bool) -> dict[str, Any]:
    """Search once; return the like of a summary, its epsilon that of the search."""
    own = [*ROWS[name], *(TINY if quick else ())]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        flag_values = flags.FlagValues()
        train_flags.define_flags(flag_values)
        always = [f"--seed={seed}", f"--run_dir={folder}/run", "--noprogress"]
        train.parse(["train.py", *always, *own], flag_values)
        found = searching.search(flag_values, train.train)
    return found | {
        "public": {"test_accuracy": found["test_accuracy"]},
        "epsilon": {"exact": found["epsilon"]},
        "privacy_filter": None,
        "elapsed_seconds": time.monotonic() - began,
    }


def main(argv: Sequence[str]) -> None:
    """Measure, print the table, and write what the flags ask for."""
    logging.set_verbosity(logging.WARNING)  # not what orbax does
    COMMAND.carry_out(argv, measure)


if __name__ == "__main__":
    define_flags()
    app.run(main)
