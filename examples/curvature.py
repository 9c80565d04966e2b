"""Study the curvature of a run of the main job: one page beside its report.

`--run_dir=FOLDER` names a run of examples/train.py, `--compare_dir=FOLDER` one to set
beside it, such as the same with `--private=false`. Everything is computed from the
final parameters and the public test set, so that it costs no privacy. The page is
curvature.html in the run folder, its numbers curvature.json.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import curvature_probe
import curvature_step
import curvature_study
import data
import jax
import jax.numpy as jnp
import models
import numpy as np
import objectives
import scattering
import train_flags
from absl import app, flags, logging
from endings import end, interruptible

from dpjax import report, training
from dpjax.curvature import Private, Public
from dpjax.curvature.sources import Source
from dpjax.training.progress import Progress

_BATCH_SIZE = 250  # small enough for the cache, large enough for a matrix product


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of this script."""
    for name, text in (
        ("run_dir", "Folder of a run of train.py."),
        (
            "compare_dir",
            "Folder of another run on the same data set, to set beside it.",
        ),
        ("data_dir", "Folder with the data set's files."),
        ("out", "The page; curvature.html in the run folder if not given."),
    ):
        flags.DEFINE_string(name, None, text, flag_values=flag_values)
    flags.DEFINE_enum(
        "source",
        "public",
        ["public", "private"],
        "The test set, or the private training set: epsilon is then infinite.",
        flag_values=flag_values,
    )
    for name, default, text in (
        ("num_examples", 10_000, "Examples that the Hessian is the mean of, at most."),
        ("num_probes", 4, "Lanczos runs for the spectrum."),
        ("num_steps", 30, "Products of each."),
    ):
        options = {"lower_bound": 1, "flag_values": flag_values}
        flags.DEFINE_integer(name, default, text, **options)
    flags.DEFINE_boolean("progress", True, "Show progress.", flag_values=flag_values)


def parse(
    argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS
) -> list[str]:
    """Parse the flags; what is wrong ends the script in one line."""
    try:
        rest = flag_values(argv)
        if len(rest) > 1:
            raise training.FlagError(f"Expected flags alone, got {rest[1]!r}.")
        if flag_values["run_dir"].value is None:
            raise training.FlagError("Expected --run_dir, got none.")
    except (flags.Error, training.FlagError) as error:
        end("curvature.py", error)
    return rest


class Trained(NamedTuple):
    """A run with its model and final parameters."""

    run: report.Run
    dataset: data.Dataset
    examples: tuple[np.ndarray, np.ndarray]
    loss: Any
    params: Any


def restore(run_dir: str, flag_values: flags.FlagValues) -> Trained:
    """Rebuild the model and the examples of a run from its folder.

    Raises:
      ReportError, CheckpointError, DataError: what is missing or damaged.
      ValueError: settings that no run of train.py has.
    """
    run = report.read_run(run_dir)
    settings = run.config["settings"]
    name, model_name = (settings.get(key) for key in ("dataset", "model"))
    for key, value in (("dataset", name), ("model", model_name)):
        if not isinstance(value, str):
            raise report.ReportError(
                f"Expected a run of train.py, with 'settings.{key}', got "
                f"config.json of run_dir={str(run_dir)!r}."
            )
    train_flags.check_plain(settings)
    dataset = data.load(name, flag_values["data_dir"].value)
    x, y = (
        (dataset.test_x, dataset.test_y)
        if flag_values["source"].value == "public"
        else (dataset.train_x, dataset.train_y)
    )
    x, y = curvature_probe.some((x, y), flag_values["num_examples"].value)
    if settings.get("features") == "scattering":
        x = scattering.scatter(x)
    model = models.make(model_name, dataset.num_classes)
    like = model.init(jax.random.key(0), jnp.asarray(x[0]) * 0)
    average = run.config["training"].get("ema_decay") is not None
    params = training.load_params(run_dir, like, average=average)
    loss, _ = objectives.make_loss(model.apply, 0, flip=False)
    return Trained(run, dataset, (x, y), loss, params)


def study(
    trained: Trained, flag_values: flags.FlagValues, reach: tuple[float, float] | None
) -> report.Study:
    """Measure the curvature of one run, as the flags say."""
    effort = curvature_study.Effort(
        flag_values["num_probes"].value, flag_values["num_steps"].value
    )
    progress = Progress(effort.num_products, 0, enabled=flag_values["progress"].value)
    batches, words = _batches(trained, flag_values["source"].value)
    count = len(trained.examples[1])
    progress.note(f"{trained.run.path}: {count:,} examples of the {words}")
    forecast = functools.partial(
        curvature_step.forecast, trained.run, trained.loss, trained.params
    )
    try:
        return curvature_study.study(
            *(trained.run, trained.loss, trained.params, batches),
            examples=f"{words} of {trained.dataset.name}",
            effort=effort,
            progress=progress,
            step=forecast,
            reach=reach,
        )
    finally:
        progress.close()


def _batches(trained: Trained, source: str) -> tuple[list[Source], str]:
    """Return the examples in batches that say what they are, and that in words."""
    kind, words = (
        (Public, "public test set")
        if source == "public"
        else (Private, "private training set")
    )
    starts = range(0, len(trained.examples[1]), _BATCH_SIZE)
    return [
        kind(tuple(part[start : start + _BATCH_SIZE] for part in trained.examples))
        for start in starts
    ], words


def write(flag_values: flags.FlagValues = flags.FLAGS) -> pathlib.Path:
    """Study the runs that the flags name; return the path of the page."""
    folders = [flag_values["run_dir"].value, flag_values["compare_dir"].value]
    runs = [restore(folder, flag_values) for folder in folders if folder is not None]
    if len({run.dataset.fingerprint for run in runs}) > 1:
        raise training.FlagError(
            f"Expected runs on one data set, got --compare_dir={folders[1]!r}."
        )
    studies: list[report.Study] = []
    for run in runs:
        reach = studies[0].reach if studies else None
        studies.append(study(run, flag_values, reach))
    page = flag_values["out"].value or pathlib.Path(folders[0]) / "curvature.html"
    return report.write_curvature_report(page, studies)


@interruptible("curvature.py")
def run(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Write the page; what goes wrong ends the script in one line."""
    try:
        print(f"page: {write(flag_values)}")
    except training.CheckpointError as error:
        end("curvature.py", error, 1)
    except (data.DataError, ValueError, TypeError) as error:
        end("curvature.py", error)


def main(argv: Sequence[str]) -> None:
    """Run the script on its parsed flags."""
    del argv
    logging.set_verbosity(logging.FATAL)  # Orbax logs what it raises
    run()


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse)
