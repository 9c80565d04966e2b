"""Audit the training of the main job: train once with canaries, and say what shows.

`--run_dir=FOLDER` names a run of train.py, whose settings are audited; without it the
flags and presets of train.py say what is. The run under audit is another one, with
canaries among its examples, and is thrown away: what is kept is audit.html, one page,
and audit.json, which `--repeat=FILE` takes to do the same again, seeds and all.
"""

import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import audit_job
import data
import jax.numpy as jnp
import train_flags
from absl import app, flags, logging
from endings import end, interruptible

from dpjax import report, training
from dpjax.auditing import AuditReport, ExampleCanaries, GradientCanaries
from dpjax.auditing.audit import one_run_audit
from dpjax.auditing.canaries import DIRECTIONS, KINDS, Canaries
from dpjax.auditing.question import METHODS
from dpjax.auditing.scoring import OF_EXAMPLES
from dpjax.auditing.white_box import OF_GRADIENTS
from dpjax.training import folder
from dpjax.training.progress import Progress

_CANARIES = {
    **{f"gradient_{word}": (GradientCanaries, word) for word in DIRECTIONS},
    **{f"example_{word}": (ExampleCanaries, word) for word in KINDS},
}
_SCORES = sorted({*OF_EXAMPLES, *OF_GRADIENTS})


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of this script, and those of train.py."""
    train_flags.define_flags(flag_values)
    for name, default, words, text in (
        ("canaries", "gradient_dirac", list(_CANARIES), "What is planted."),
        ("method", None, list(METHODS), "How epsilon is bounded; fdp if it can be."),
        ("score", None, _SCORES, "What canaries are scored by; the best if not given."),
    ):
        flags.DEFINE_enum(name, default, words, text, flag_values=flag_values)
    for name, default, least, text in (
        ("num_canaries", 1000, 1, "How many; about half of them are put in."),
        ("guesses", None, 1, "Coins to guess; a fifth of them if not given."),
        ("coin_seed", None, 0, "Seed of the coins; a fresh one if not given."),
        ("background", 256, 0, "Examples a step that say what the data add."),
    ):
        options = {"lower_bound": least, "flag_values": flag_values}
        flags.DEFINE_integer(name, default, text, **options)
    flags.DEFINE_boolean(
        "per_example_scores",
        False,
        "Write the score of each canary also where canaries are made of private "
        "examples.",
        flag_values=flag_values,
    )
    text = "How often the bound may be too high."
    flags.DEFINE_float("significance", 0.05, text, flag_values=flag_values)
    for name, text in (
        ("out", "The page; audit.html in the run folder if not given."),
        ("repeat", "The JSON of an audit, which is done again."),
    ):
        flags.DEFINE_string(name, None, text, flag_values=flag_values)


def parse(
    argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS
) -> list[str]:
    """Parse and complete the flags; what is wrong ends the script in one line."""
    try:
        rest = flag_values(argv)
        if len(rest) > 1:
            raise training.FlagError(f"Expected flags alone, got {rest[1]!r}.")
        _take_settings(flag_values)
        train_flags.complete(flag_values)
        training.read_flags(flag_values)
        train_flags.check(flag_values)
        _check(flag_values)
    except (flags.Error, ValueError, TypeError, OSError) as error:
        end("audit.py", error)
    return rest


def _take_settings(flag_values: flags.FlagValues) -> None:
    """Let an audit or a run folder say what is not given."""
    if flag_values["repeat"].value is not None:
        settings = repeated(flag_values).settings
        training.apply_defaults(flag_values, settings | {"preset": "none"})
    if flag_values["run_dir"].value is None:
        return
    folder.saved_settings(flag_values["run_dir"].value)
    flag_values["resume"].value = True


def repeated(flag_values: flags.FlagValues) -> AuditReport:
    """Return the audit that is to be done again.

    Raises:
      AuditError: it is damaged, or lacks the seed of the coins.
      OSError: there is no such file.
    """
    path = pathlib.Path(flag_values["repeat"].value)
    return AuditReport.from_json(path.read_text())


def _seeds(flag_values: flags.FlagValues) -> tuple[Any, int | None]:
    """Return the key of the run and the seed of the coins."""
    if flag_values["repeat"].value is not None:
        seeds = repeated(flag_values).seeds
        return jnp.asarray(seeds["key"], jnp.uint32), seeds["coins"]
    key = training.run_key(None, flag_values["seed"].value, resume=False)
    return key, flag_values["coin_seed"].value


def _check(flag_values: flags.FlagValues) -> None:
    if not flag_values["private"].value:
        raise training.FlagError("Expected a private run, got --private=false.")
    if flag_values["augmentations"].value:
        raise training.FlagError(
            "Expected a loss without randomness, got "
            f"--augmentations={flag_values['augmentations'].value}."
        )
    if flag_values["microbatch_size"].value == "auto":
        raise training.FlagError("Expected a number, got --microbatch_size=auto.")
    refused = [n for n in ("start_from", "take_rest") if flag_values[n].value]
    budget = [n for n in ("budget_file", "budget_epsilon") if flag_values[n].present]
    for name in refused + budget:
        raise training.FlagError(
            "Expected a run that spends of no budget and does not begin where another "
            f"ended, got --{name}={flag_values[name].value}."
        )
    train_flags.check_plain({name: flag_values[name].value for name in flag_values})


def planted(flag_values: flags.FlagValues) -> Canaries:
    """Return the canaries that the flags ask for."""
    family, word = _CANARIES[flag_values["canaries"].value]
    return family(flag_values["num_canaries"].value, word)


def audit(flag_values: flags.FlagValues = flags.FLAGS) -> AuditReport:
    """Do what the flags say."""
    options = training.read_flags(flag_values)
    key, coin_seed = _seeds(flag_values)
    task = audit_job.job(options, key, flag_values)
    x, y = task.dataset.train_x, task.dataset.train_y
    shown = _Shown(
        task.mechanism.num_steps, task.dataset.source, enabled=options.progress
    )
    try:
        return one_run_audit(
            task.mechanism,
            task.loss,
            task.params,
            (x, y),
            task.optimizer,
            canaries=planted(flag_values),
            delta=options.delta,
            key=key,
            coin_seed=coin_seed,
            microbatch_size=options.microbatch_size,
            engine=options.engine,
            progress=shown,
            settings=training.flag_settings(flag_values, _SETTINGS),
            **{name: flag_values[name].value for name in _AUDITS_OWN},
        )
    finally:
        shown.close()


_AUDITS_OWN = ("significance", "guesses", "method", "score", "background")


_SETTINGS = [
    *("dataset", "model", "features", "augmentations"),
    *("canaries", "num_canaries", *_AUDITS_OWN),
]


class _Shown:
    """What a person sees of an audit: a bar, or a line for each tenth of the run."""

    def __init__(self, num_steps: int, source: str, *, enabled: bool) -> None:
        self._bar = Progress(num_steps, 0, enabled=enabled)
        self._bar.note(f"data: {source}")
        self._done, self._tenth = 0, max(1, num_steps // 10)

    def __call__(self, done: int, total: int) -> None:
        for _ in range(done - self._done):
            self._bar.advance(None)
        tenths = done // self._tenth > self._done // self._tenth
        if tenths and not sys.stderr.isatty():
            self._bar.note(f"step {done}/{total}")
        self._done = done
        if done == total:
            self._bar.note("trained; bounding epsilon")

    def close(self) -> None:
        self._bar.close()


def page_path(flag_values: flags.FlagValues) -> pathlib.Path:
    """Return where the page goes, and make the folder."""
    if flag_values["out"].value is not None:
        return pathlib.Path(flag_values["out"].value)
    run_dir = flag_values["run_dir"].value
    if run_dir is None:
        now = time.strftime("%Y%m%d-%H%M%S")
        run_dir = f"runs/audit-{flag_values['dataset'].value}-{now}"
        pathlib.Path(run_dir).mkdir(mode=0o700, parents=True)
    return pathlib.Path(run_dir) / "audit.html"


@interruptible("audit.py")
def run(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Audit, and write the page; what goes wrong ends the script in one line."""
    try:
        found = audit(flag_values)
        title: Any = (flag_values["dataset"].value, flag_values["model"].value)
        page = report.write_audit_report(
            page_path(flag_values),
            found,
            title=" · ".join(title),
            per_example_scores=flag_values["per_example_scores"].value,
        )
        print(found.verdict, f"page: {page}", sep="\n")
    except (training.WriteError, report.ReportError) as error:
        end("audit.py", error, 1)
    except (data.DataError, ValueError, TypeError) as error:
        end("audit.py", error)


def main(argv: Sequence[str]) -> None:
    """Run the script on its parsed flags."""
    del argv
    logging.set_verbosity(logging.FATAL)  # Orbax logs what it raises
    run()


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse)
