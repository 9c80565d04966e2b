"""Train a model on real data under differential privacy.

Without flags: a small CNN on 4,000 handwritten digits, to epsilon 3 at delta 1e-4.
`--preset` chooses other settings, and every other flag goes before it; `--preset=none`
leaves all settings to the flags. The run folder gets config, metrics, checkpoints and a
report; `--run_dir=FOLDER --resume` goes on with a run that was stopped, and
`--during_training` records the curvature of a public batch as the run goes on.
"""

import json
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import augment
import curvature_probe
import data
import jax
import jax.numpy as jnp
import models
import optax
import presets
import scattering
from absl import app, flags, logging
from endings import end

from dpjax import report, training
from dpjax.noise import keys

_OWN_SETTINGS = [
    "dataset",
    "model",
    "features",
    "augmentations",
    "during_training",
    "probe_every",
]
_DEFAULTS = {
    "features": "none",
    "augmentations": 0,
    "during_training": False,
    "probe_every": 100,
}
_TABLE_MODELS = ("mlp", "linear")


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of this script and of the training loop."""
    training.define_flags(flag_values)
    names = [*presets.PRESETS, "none"]
    for name, words, text in (
        ("preset", names, "Flag values that belong together."),
        ("dataset", list(data.SETS), "The data set."),
        ("model", list(models.MODELS), "The model."),
        ("features", ["none", "scattering"], "What the model sees of an image."),
    ):
        flags.DEFINE_enum(name, None, words, text, flag_values=flag_values)
    flags.DEFINE_string(
        "data_dir", None, "Folder with the data set's files.", flag_values=flag_values
    )
    flags.DEFINE_integer(
        "augmentations",
        None,
        "Random views of each image, averaged before the clip; 0 is none.",
        lower_bound=0,
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "during_training",
        None,
        "Record sharpness and trace of a batch of the public test set.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "probe_every",
        None,
        "Steps between two such records, each at the next line of metrics.",
        lower_bound=1,
        flag_values=flag_values,
    )


def parse(
    argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS
) -> list[str]:
    """Parse and complete the flags; what is wrong ends the script in one line."""
    try:
        rest = flag_values(argv)
        if len(rest) > 1:
            raise training.FlagError(f"Expected flags alone, got {rest[1]!r}.")
        complete(flag_values)
        training.read_flags(flag_values)
        check_model(flag_values)
    except (flags.Error, ValueError, TypeError, OSError) as error:
        end("train.py", error)
    return rest


def complete(flag_values: flags.FlagValues) -> None:
    """Fill in what was not given: from the run that is resumed, or from a preset."""
    if flag_values["resume"].value and flag_values["run_dir"].value:
        config = pathlib.Path(flag_values["run_dir"].value) / "config.json"
        if config.exists():
            saved = json.loads(config.read_text())["settings"]
            training.apply_defaults(flag_values, saved)
            return
    dataset = flag_values["dataset"].value or "mnist_5k"
    preset = flag_values["preset"].value or presets.OF_DATASET[dataset]
    training.apply_defaults(flag_values, _DEFAULTS | presets.PRESETS.get(preset, {}))


def check_model(flag_values: flags.FlagValues) -> None:
    """Raise `FlagError` where data set, features and model do not fit together."""
    value = {name: flag_values[name].value for name in _OWN_SETTINGS}
    for name in ("dataset", "model"):
        if value[name] is None:
            raise training.FlagError(f"Expected --{name}, got none.")
    is_table = value["dataset"] == "adult"
    scattered = value["features"] == "scattering"
    allowed = (
        _TABLE_MODELS
        if is_table
        else (*models.SCATTERING_MODELS, *_TABLE_MODELS)
        if scattered
        else set(models.MODELS) - models.SCATTERING_MODELS
    )
    if (is_table and scattered) or value["model"] not in allowed:
        raise training.FlagError(
            f"Expected a model that fits --dataset={value['dataset']} with --features="
            f"{value['features']} ({', '.join(sorted(allowed))}), got "
            f"--model={value['model']}."
        )
    if value["augmentations"] and (is_table or scattered):
        raise training.FlagError(
            "Expected images to augment, got --augmentations="
            f"{value['augmentations']} with --dataset={value['dataset']} "
            f"--features={value['features']}."
        )


def make_loss(
    apply: Callable[..., jax.Array], augmentations: int, *, flip: bool
) -> tuple[Callable[..., jax.Array], int | None]:
    """Return the loss of one example, and the position of its key if it takes one."""

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y)

    def augmented_loss(
        params: Any, x: jax.Array, y: jax.Array, key: jax.Array
    ) -> jax.Array:
        views = augment.views(key, x, augmentations, flip=flip)
        return jax.vmap(loss, (None, 0, None))(params, views, y).mean()

    return (augmented_loss, 3) if augmentations else (loss, None)


def make_evaluation(
    apply: Callable[..., jax.Array], dataset: data.Dataset
) -> Callable[[Any], dict[str, jax.Array]]:
    """Return a function of the parameters: loss and accuracy on the test set."""
    test_x, test_y = jnp.asarray(dataset.test_x), jnp.asarray(dataset.test_y)

    @jax.jit
    def evaluate(params: Any) -> dict[str, jax.Array]:
        logits = jax.lax.map(lambda x: apply(params, x), test_x, batch_size=1000)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, test_y)
        right = jnp.argmax(logits, -1) == test_y
        return {"test_loss": losses.mean(), "test_accuracy": right.mean()}

    return evaluate


def train(flag_values: flags.FlagValues = flags.FLAGS) -> training.FitResult:
    """Do what the flags say."""
    options = training.read_flags(flag_values)
    value = {name: flag_values[name].value for name in (*_OWN_SETTINGS, "data_dir")}
    dataset = data.load(value["dataset"], value["data_dir"])
    mechanism = options.mechanism(len(dataset.train_y))
    if value["features"] == "scattering":
        dataset = scattering.scatter_dataset(dataset)
    arguments = options.fit_arguments()
    key = training.run_key(
        arguments["run_dir"], arguments["key"], resume=arguments["resume"]
    )
    model = models.make(value["model"], dataset.num_classes)
    init_key = keys.domain_key(key, "examples.train.init")
    params = model.init(init_key, jnp.asarray(dataset.train_x[0]) * 0)
    flip = value["dataset"] == "fashion_mnist"
    loss, prng_argnum = make_loss(model.apply, value["augmentations"], flip=flip)
    evaluate = make_evaluation(model.apply, dataset)
    if flag_values["during_training"].value:
        evaluate = curvature_probe.added_to(
            evaluate,
            make_loss(model.apply, 0, flip=False)[0],
            (dataset.test_x, dataset.test_y),
            metrics=arguments["run_dir"] / "metrics.jsonl",
            log_every=flag_values["log_every"].value,
            probe_every=flag_values["probe_every"].value,
        )
    if arguments["logging"].progress:
        print(f"data: {dataset.source}", file=sys.stderr)
        print(f"run folder: {arguments['run_dir']}", file=sys.stderr, flush=True)
    return training.fit(
        mechanism,
        loss,
        params,
        (dataset.train_x, dataset.train_y),
        options.optax_optimizer(mechanism),
        evaluate=evaluate,
        prng_argnum=prng_argnum,
        settings=training.flag_settings(flag_values, _OWN_SETTINGS),
        **(arguments | {"key": key}),
    )


def run(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Train, then write the report; what goes wrong ends the script in one line."""
    if flag_values["run_dir"].value is None:
        folder = f"{flag_values['dataset'].value}-{time.strftime('%Y%m%d-%H%M%S')}"
        flag_values["run_dir"].value = f"runs/{folder}"
    try:
        result = train(flag_values)
        print(f"report: {report.write_run_report(result.run_dir)}")
    except (training.CheckpointError, training.WriteError) as error:
        end("train.py", error, 1)
    except (data.DataError, ValueError) as error:
        end("train.py", error)
    except KeyboardInterrupt:
        end("train.py", "interrupted", 130)


def main(argv: Sequence[str]) -> None:
    """Run the script on its parsed flags."""
    del argv
    logging.set_verbosity(logging.FATAL)  # Orbax logs what it raises
    run()


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse)
