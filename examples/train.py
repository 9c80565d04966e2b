"""Train a model on real data under differential privacy.

Without flags: a small CNN on 4,000 handwritten digits, to epsilon 3 at delta 1e-4.
`--preset` chooses other settings, and every other flag goes before it; `--preset=none`
leaves all settings to the flags. The run folder gets config, metrics, checkpoints and a
report; `--run_dir=FOLDER --resume` goes on with a run that was stopped, and
`--during_training` records the curvature of a public batch as the run goes on.
`--search=FLAG=V1,V2` keeps the best of a secret number of runs: see searching.py.
"""

import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import beginning
import curvature_probe
import data
import device_flags
import flax.linen as nn
import grouping
import jax
import jax.numpy as jnp
import models
import objectives
import scattering
import searching
import train_flags
import tuning
from absl import app, flags, logging
from endings import end, interruptible

from dpjax import accounting, report, training
from dpjax.noise import keys


def parse(
    argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS
) -> list[str]:
    """Parse and complete the flags; what is wrong ends the script in one line."""
    try:
        rest = flag_values(argv)
        if len(rest) > 1:
            raise training.FlagError(f"Expected flags alone, got {rest[1]!r}.")
        train_flags.complete(flag_values)
        training.read_flags(flag_values)
        train_flags.check(flag_values)
    except (flags.Error, ValueError, TypeError, OSError) as error:
        end("train.py", error)
    return rest


_FAILED = (
    training.CheckpointError,
    training.DataError,
    training.ProcessError,
    training.WriteError,
)
"""What can go wrong where all that was asked for is right."""


def train(
    flag_values: flags.FlagValues = flags.FLAGS,
    *,
    dataset: data.Dataset | None = None,
    evaluate: Callable[[Any], Mapping[str, Any]] | None = None,
    fit: Callable[..., Any] = training.fit,
    **given: Any,
) -> Any:
    """Do what the flags say.

    Args:
        flag_values: Complete and checked.
        dataset: What the model sees, where it is at hand.
        evaluate: What is measured of the model's parameters instead of the usual.
        fit: What trains; its result is returned.
        **given: Arguments of `fit` that go before what the flags say.
    """
    options = training.read_flags(flag_values)
    names = (*train_flags.SETTINGS, "data_dir")
    value = {name: flag_values[name].value for name in names}
    dataset = dataset or data.load(value["dataset"], value["data_dir"])
    arguments = options.fit_arguments() | given
    key = training.run_key(
        arguments["run_dir"], arguments["key"], resume=arguments["resume"]
    )
    num_units = grouping.num_units(len(dataset.train_y), value["unit_size"])
    mechanism = options.mechanism(num_units)
    if value["features"] == "scattering":
        dataset = scattering.scatter_dataset(dataset)
    model = models.make(value["model"], dataset.num_classes)
    shared = options.privacy_filter(mechanism)
    tuned, prng_argnum = _tuned(model, dataset, value, key, shared)
    units = grouping.grouped(
        dataset.train_x, dataset.train_y, tuned.loss, value["unit_size"], key
    )
    measure = evaluate or _evaluation(model, dataset, flag_values, arguments["run_dir"])
    if arguments["logging"].progress and jax.process_index() == 0:
        print(f"data: {dataset.source}", file=sys.stderr)
        print(f"run folder: {arguments['run_dir']}", file=sys.stderr, flush=True)
        if value["start_from"] is not None and shared is None:
            print(beginning.CAUTION, file=sys.stderr, flush=True)
    return fit(
        mechanism,
        units.loss,
        tuned.params,
        units.data,
        options.optax_optimizer(mechanism),
        evaluate=lambda trained: measure(tuned.whole(trained)),
        prng_argnum=prng_argnum,
        settings=training.flag_settings(flag_values, train_flags.SETTINGS),
        placement=device_flags.placement(flag_values),
        privacy_filter=shared,
        unit=grouping.unit(value["unit_size"]),
        **(arguments | {"key": key}),
    )


def _tuned(
    model: nn.Module,
    dataset: data.Dataset,
    value: Mapping[str, Any],
    key: jax.Array,
    shared: accounting.FilterFile | None,
) -> tuple[tuning.Tuned, int | None]:
    """Return what is trained, and the position of the loss's key if it takes one."""
    init_key = keys.domain_key(key, "examples.train.init")
    params = model.init(init_key, jnp.asarray(dataset.train_x[0]) * 0)
    if value["start_from"] is not None:
        params = beginning.begun_with(value["start_from"], params, shared)
    loss, prng_argnum = objectives.make_loss(
        model.apply, value["augmentations"], flip=value["dataset"] == "fashion_mnist"
    )
    found = tuning.tuned(
        params,
        loss,
        keys.domain_key(key, "examples.train.adapters"),
        train_only=value["train_only"],
        adapter_rank=value["adapter_rank"],
    )
    return found, prng_argnum


def _evaluation(
    model: nn.Module,
    dataset: data.Dataset,
    flag_values: flags.FlagValues,
    run_dir: pathlib.Path,
) -> Callable[[Any], Mapping[str, Any]]:
    """Return what is measured on the test set, with the curvature if asked for."""
    evaluate = objectives.make_evaluation(model.apply, dataset)
    if not flag_values["during_training"].value:
        return evaluate
    return curvature_probe.added_to(
        evaluate,
        objectives.make_loss(model.apply, 0, flip=False)[0],
        (dataset.test_x, dataset.test_y),
        metrics=run_dir / "metrics.jsonl",
        log_every=flag_values["log_every"].value,
        probe_every=flag_values["probe_every"].value,
    )


@interruptible("train.py")
def run(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Train, then write the report; what goes wrong ends the script in one line."""
    if flag_values["run_dir"].value is None:
        folder = f"{flag_values['dataset'].value}-{time.strftime('%Y%m%d-%H%M%S')}"
        flag_values["run_dir"].value = f"runs/{folder}"
    try:
        device_flags.join(flag_values)
        if flag_values["search"].value is not None:
            searching.search(flag_values, train)
            print(f"found: {flag_values['run_dir'].value}/{searching.SEARCH}")
            return
        result = train(flag_values)
        if result.run_dir is not None:
            print(f"report: {report.write_run_report(result.run_dir)}")
    except _FAILED as error:
        end("train.py", error, 1)
    except (data.DataError, ValueError) as error:
        end("train.py", error)


def main(argv: Sequence[str]) -> None:
    """Run the script on its parsed flags."""
    del argv
    logging.set_verbosity(logging.FATAL)  # Orbax logs what it raises
    run()


if __name__ == "__main__":
    train_flags.define_flags()
    app.run(main, flags_parser=parse)
