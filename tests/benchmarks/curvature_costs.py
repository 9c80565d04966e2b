"""The benchmark of curvature. Run me as a script; README's table is my output.

What is measured in gradients is timed side by side with the plain gradient of the same
batch, in one process; those ratios are what counts, not the milliseconds. The spectrum
of a million parameters takes minutes and is asked for by `--parts`.
"""

import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import curvature_tables
import jax
import jax.numpy as jnp
import machine
import programs
import table
import timing
import workloads
from absl import app, flags

# The examples: importing `workloads` has put their folder on the path.
import autodiff_tour  # isort: skip
import curvature_probe  # isort: skip

from dpjax import curvature

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RESULTS = pathlib.Path(__file__).with_name("curvature_results.json")
PARTS = ("gradients", "tour", "spectrum")

NUM_EXAMPLES = curvature_probe.NUM_EXAMPLES
MODELS = {
    "tanh_cnn": ("main job's CNN", {"batch": NUM_EXAMPLES}, {"batch": 2}),
    "mlp": (
        "MLP 784-540-540-540-10",
        {"batch": NUM_EXAMPLES, "width": 540},
        {"batch": 2, "width": 8},
    ),
}
SPECTRUM = {"examples": 10_000, "microbatch": 1000, "probes": 4, "steps": 30}
TINY_SPECTRUM = {"examples": 8, "microbatch": 4, "probes": 2, "steps": 3}

Run = Mapping[str, Any]


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of the command."""
    own: dict[str, Any] = {"flag_values": flag_values}
    text = (
        f"Tables to measure, any of: {', '.join(PARTS)}. The others stay as they were "
        "measured last."
    )
    flags.DEFINE_list("parts", list(PARTS[:2]), text, **own)
    flags.DEFINE_string("out", None, "Folder for results.json and table.md.", **own)
    for name, default, text in (
        ("quick", False, "Tiny sizes: a trial of the command, no measurement."),
        ("measure", True, "Measure; else only write out the results that are kept."),
        ("write_readme", False, "Keep the results, and put their tables into README."),
    ):
        flags.DEFINE_bool(name, default, text, **own)
    text = "Rounds of each side-by-side timing."
    flags.DEFINE_integer("rounds", 15, text, lower_bound=1, **own)


def measure(flag_values: flags.FlagValues) -> dict[str, Any]:
    """Run the benchmark that the flags describe; return what there is to know of it.

    Raises:
        ValueError: If a flag names what is not there.
    """
    for part in flag_values.parts:
        if part not in PARTS:
            raise ValueError(f"Expected any of {PARTS}, got parts={part!r}.")
    options = programs.Options(flag_values.rounds, flag_values.quick)
    run = {
        "machine": machine.describe(),
        "settings": {"rounds": options.rounds, "quick": options.quick},
    }
    measures: dict[str, Callable[[programs.Options], Any]] = {
        "gradients": lambda options: [gradients(name, options) for name in MODELS],
        "tour": lambda _: autodiff_tour.timing(),
        "spectrum": spectrum,
    }
    kept = read_results() or {}
    found = {part: measures[part](options) for part in flag_values.parts}
    return {part: kept.get(part) for part in PARTS} | run | found


def gradients(name: str, options: programs.Options) -> dict[str, Any]:
    """Return a row: products and probes of one model, in its plain gradients."""
    title, work = _workload(name, options)
    public = curvature.Public(work.batch)
    contestants = {
        "gradient": lambda params, _: jax.grad(work.loss)(params, *work.batch),
        "hvp": curvature_of(work.loss, public),
        "lanczos": lambda params, _: curvature_probe.look(work.loss, params, public)[0],
        "trace": lambda params, _: curvature_probe.look(work.loss, params, public)[1],
        "probe": lambda params, _: curvature_probe.look(work.loss, params, public),
    }
    args = (work.params, jax.tree.map(jnp.cos, work.params))
    runs = {key: programs.compiled(fn, args, 1).run for key, fn in contestants.items()}
    calls = {key: programs.repeated(run, args) for key, run in runs.items()}
    for call in calls.values():
        call()
    times = timing.side_by_side(calls, options.rounds, turn=options.turn)
    base = times["gradient"]
    return {
        "title": title,
        "params": work.num_params,
        "batch": work.batch[1].shape[0],
        "gradient_ms": 1e3 * sorted(base)[len(base) // 2],
        "operations": operations(runs["gradient"], contestants["hvp"], args),
        "ratio": {
            key: timing.median_ratio(times[key], base) for key in list(calls)[1:]
        },
    }


def operations(
    gradient: Any, product: Callable[..., Any], args: tuple[Any, Any]
) -> dict[str, float]:
    """Return XLA's count of operations of products at one point, in gradients.

    Args:
        gradient: The compiled gradient.
        product: `product(params, vector)`.
        args: Parameters and a vector.
    """

    def twice(params: Any, vector: Any) -> Any:
        other = jax.tree.map(jnp.sin, vector)
        return product(params, vector), product(params, other)

    base = gradient.cost_analysis()["flops"]
    one, two = (
        programs.compiled(fn, args, 1).run.cost_analysis()["flops"] / base
        for fn in (product, twice)
    )
    return {"first": one, "further": two - one}


def curvature_of(loss: Callable[..., jax.Array], public: curvature.Public) -> Any:
    """Return the Hessian-vector product as a function of parameters and vector."""
    return lambda params, v: curvature.hessian_operator(loss, params, public)(v)


def spectrum(options: programs.Options) -> dict[str, Any]:
    """Return the seconds that the spectrum of the multilayer perceptron takes."""
    sizes = TINY_SPECTRUM if options.quick else SPECTRUM
    _, work = _workload("mlp", options)
    batch = workloads.mlp(sizes["examples"], 8).batch
    start = time.perf_counter()
    operator = curvature.hessian_operator(
        work.loss,
        work.params,
        curvature.Public(batch),
        microbatch_size=sizes["microbatch"],
    )
    density = curvature.spectral_density(
        operator,
        work.params,
        key=0,
        num_probes=sizes["probes"],
        num_steps=sizes["steps"],
    )
    jax.block_until_ready(density)
    seconds = time.perf_counter() - start
    return sizes | {"params": work.num_params, "seconds": seconds}


def read_results() -> dict[str, Any] | None:
    """Return the run that is kept beside this file, if one is."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else None


def write_out(run: Run, folder: pathlib.Path) -> None:
    """Write results.json and table.md into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(run, folder / "results.json")
    (folder / "table.md").write_text(curvature_tables.render(run))


def main(argv: Sequence[str]) -> None:
    """Measure, print the tables, and write what the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags alone, got {argv[1:]}.")
    values = flags.FLAGS
    run = measure(values) if values.measure else read_results()
    if run is None:
        raise app.UsageError("Expected results that are kept, got none.")
    print("\n" + curvature_tables.render(run))
    if values.out:
        write_out(run, pathlib.Path(values.out))
    if values.write_readme:
        if run["settings"]["quick"]:
            raise app.UsageError("Expected a measurement to keep, got --quick.")
        _write(run, RESULTS)
        README.write_text(
            table.replace_block(
                README.read_text(), curvature_tables.render(run), curvature_tables.MARKS
            )
        )


def _workload(name: str, options: programs.Options) -> tuple[str, workloads.Workload]:
    title, sizes, tiny = MODELS[name]
    chosen = tiny if options.quick else sizes
    return title, workloads.BUILDERS[name](**chosen)


def _write(run: Run, path: pathlib.Path) -> None:
    path.write_text(json.dumps(run, indent=1) + "\n")


if __name__ == "__main__":
    define_flags()
    app.run(main)
