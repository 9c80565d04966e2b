"""The benchmark of curvature. Run me as a script; README's table is my output.

What is measured in gradients is timed side by side with the plain gradient of the same
batch, in one process; those ratios are what counts, not the milliseconds. The spectrum
of a million parameters takes minutes and is asked for by `--parts`.
"""

import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import command
import curvature_tables
import jax
import jax.numpy as jnp
import machine
import programs
import timing
import workloads
from absl import app, flags

# The examples: importing `workloads` has put their folder on the path.
import autodiff_tour  # isort: skip
import curvature_probe  # isort: skip

from dpjax import curvature

PARTS = ("gradients", "tour", "spectrum")
COMMAND = command.Command(
    PARTS,
    pathlib.Path(__file__).with_name("curvature_results.json"),
    curvature_tables.render,
    curvature_tables.MARKS,
)

NUM_EXAMPLES = curvature_probe.NUM_EXAMPLES
MODELS = (
    ("main job's CNN", "tanh_cnn", {"batch": NUM_EXAMPLES}, {"batch": 2}),
    (
        "MLP 784-256-256-10",
        "mlp",
        {"batch": 256, "width": 256, "hidden": 2},
        {"batch": 2, "width": 8},
    ),
    (
        "MLP 784-540-540-540-10",
        "mlp",
        {"batch": NUM_EXAMPLES, "width": 540},
        {"batch": 2, "width": 8},
    ),
)
"""What is in the table: its name there, a builder, its sizes, and those of a trial."""

LARGE = MODELS[-1]
SPECTRUM = {"examples": 10_000, "microbatch": 1000, "probes": 4, "steps": 30}
TINY_SPECTRUM = {"examples": 8, "microbatch": 4, "probes": 2, "steps": 3}

Run = Mapping[str, Any]
Model = tuple[str, str, dict[str, int], dict[str, int]]


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of the command."""
    COMMAND.define_flags(flag_values, chosen=PARTS[:2], quick="Tiny sizes")
    text = "Rounds of each side-by-side timing."
    flags.DEFINE_integer("rounds", 15, text, lower_bound=1, flag_values=flag_values)


def measure(flag_values: flags.FlagValues) -> dict[str, Any]:
    """Run the benchmark that the flags describe; return what there is to know of it.

    Raises:
        ValueError: If a flag names what is not there.
    """
    COMMAND.check_parts(flag_values.parts)
    options = programs.Options(flag_values.rounds, flag_values.quick)
    run = {
        "machine": machine.describe(),
        "settings": {"rounds": options.rounds, "quick": options.quick},
    }
    measures: dict[str, Callable[[programs.Options], Any]] = {
        "gradients": lambda options: [gradients(model, options) for model in MODELS],
        "tour": lambda _: autodiff_tour.timing(),
        "spectrum": spectrum,
    }
    kept = COMMAND.read_results() or {}
    found = {part: measures[part](options) for part in flag_values.parts}
    return {part: kept.get(part) for part in PARTS} | run | found


def gradients(model: Model, options: programs.Options) -> dict[str, Any]:
    """Return a row: products and probes of one model, in its plain gradients."""
    title, work = _workload(model, options)
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
    _, work = _workload(LARGE, options)
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


def main(argv: Sequence[str]) -> None:
    """Measure, print the tables, and write what the flags ask for."""
    COMMAND.carry_out(argv, measure)


def _workload(
    model: Model, options: programs.Options
) -> tuple[str, workloads.Workload]:
    title, builder, sizes, tiny = model
    chosen = tiny if options.quick else sizes
    return title, workloads.BUILDERS[builder](**chosen)


if __name__ == "__main__":
    define_flags()
    app.run(main)
