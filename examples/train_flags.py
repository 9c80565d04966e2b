"""The flags of train.py: those of the training loop, and its own."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import data
import device_flags
import models
import presets
import search_flags
from absl import flags

from dpjax import training
from dpjax.training import folder

DEFAULTS: dict[str, Any] = {
    "features": "none",
    "augmentations": 0,
    "unit_size": 1,
    "train_only": None,
    "adapter_rank": None,
    "start_from": None,
    "during_training": False,
    "probe_every": 100,
    "search": None,
    "search_runs": None,
}
"""What a flag is that neither the command line nor a preset gives."""

SETTINGS = ["dataset", "model", *DEFAULTS]
"""The flags beside those of the loop that belong to a run."""

_UNPLAIN = (
    "unit_size",
    "train_only",
    "adapter_rank",
    "sharpness_radius",
    "noise_ratio",
    "full_steps",
    "search",
)
"""The flags that audits and studies of curvature have no answer to."""

_TABLE_MODELS = ("mlp", "linear")
_WORDS = (
    ("preset", [*presets.PRESETS, "none"], "Flag values that belong together."),
    ("dataset", list(data.SETS), "The data set."),
    ("model", list(models.MODELS), "The model."),
    ("features", ["none", "scattering"], "What the model sees of an image."),
)
_NUMBERS = (
    (
        "augmentations",
        0,
        "Random views of each image, averaged before the clip; 0 is none.",
    ),
    (
        "unit_size",
        1,
        "Examples that have one owner, who is the unit of privacy and of --batch_size.",
    ),
    (
        "adapter_rank",
        1,
        "Train adapters of this rank of all larger matrices instead of the parameters.",
    ),
    (
        "probe_every",
        1,
        "Steps between two such records, each at the next line of metrics.",
    ),
)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of train.py and of the training loop."""
    training.define_flags(flag_values)
    device_flags.define_flags(flag_values)
    search_flags.define_flags(flag_values)
    for name, words, text in _WORDS:
        flags.DEFINE_enum(name, None, words, text, flag_values=flag_values)
    for name, least, text in _NUMBERS:
        flags.DEFINE_integer(
            name, None, text, lower_bound=least, flag_values=flag_values
        )
    for name, text in (
        ("data_dir", "Folder with the data set's files."),
        (
            "start_from",
            "Folder of another run, whose parameters, as released, are begun with.",
        ),
        (
            "train_only",
            "A regular expression: only parameters in whose path it is found.",
        ),
    ):
        flags.DEFINE_string(name, None, text, flag_values=flag_values)
    flags.DEFINE_boolean(
        "during_training",
        None,
        "Record sharpness and trace of a batch of the public test set.",
        flag_values=flag_values,
    )


def complete(flag_values: flags.FlagValues) -> None:
    """Fill in what was not given: from the run that is resumed, or from a preset."""
    if flag_values["resume"].value and flag_values["run_dir"].value:
        run_dir = pathlib.Path(flag_values["run_dir"].value)
        if (run_dir / folder.CONFIG).exists():
            training.apply_defaults(
                flag_values, DEFAULTS | folder.saved_settings(run_dir)
            )
            search_flags.check(flag_values)
            return
    dataset = flag_values["dataset"].value or "mnist_5k"
    preset = flag_values["preset"].value or presets.OF_DATASET[dataset]
    training.apply_defaults(flag_values, DEFAULTS | presets.PRESETS.get(preset, {}))
    search_flags.complete(flag_values)


def check(flag_values: flags.FlagValues) -> None:
    """Raise `FlagError` where train.py's own flags do not fit together."""
    device_flags.check(flag_values)
    search_flags.check(flag_values)
    for own in search_flags.each(flag_values):
        training.read_flags(own)
        check(own)
    _check_model(flag_values)
    _check_what_is_trained(flag_values)


def _check_model(flag_values: flags.FlagValues) -> None:
    value = {name: flag_values[name].value for name in SETTINGS}
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


def _check_what_is_trained(flag_values: flags.FlagValues) -> None:
    value = {name: flag_values[name].value for name in SETTINGS}
    if value["train_only"] is not None:
        if value["adapter_rank"] is not None:
            raise training.FlagError(
                "Expected either --train_only or --adapter_rank, got both."
            )
        try:
            re.compile(value["train_only"])
        except re.error as error:
            raise training.FlagError(
                "Expected a regular expression, got "
                f"--train_only={value['train_only']!r}: {error}."
            ) from None
    if (value["unit_size"] or 1) > 1 and value["augmentations"]:
        raise training.FlagError(
            "Expected either --augmentations or --unit_size above 1, got both."
        )


def check_plain(settings: Mapping[str, Any]) -> None:
    """Raise `FlagError` unless all parameters are trained, on single examples.

    What is audited, and what curvature is measured of, is such a run, whose gradients
    are taken where it is, and whose noise stays as it is; not the best of several.
    """
    for name in _UNPLAIN:
        value = settings.get(name)
        if value is not None and value != DEFAULTS.get(name):
            raise training.FlagError(
                "Expected one run that trains all parameters on single examples, with "
                f"the same noise throughout, got --{name}={value}."
            )
