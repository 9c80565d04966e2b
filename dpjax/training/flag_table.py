"""The flags themselves: kind, name, help and options of each."""

from collections.abc import Callable
from typing import Any

from absl import flags

from dpjax.optimizers.discrete_aggregate import ROUNDINGS
from dpjax.training.catalogue import (
    CLIPPING,
    NOISES,
    OPTIMIZERS,
    SAMPLERS,
    STRATEGIES,
)
from dpjax.training.options import ENGINES, SCHEDULES

_Flag = tuple[Callable[..., Any], str, str, dict[str, Any]]


class _SizeParser(flags.ArgumentParser):
    """A number of examples, or "auto"."""

    syntactic_help = "a positive integer or auto"

    def parse(self, argument: str | int) -> str | int:
        if argument == "auto":
            return "auto"
        try:
            size = int(argument)
        except ValueError:
            size = 0
        if size < 1:
            raise ValueError(f"Expected {self.syntactic_help}, got {argument!r}.")
        return size


def _define_size(name: str, default: Any, help: str, **options: Any) -> Any:
    return flags.DEFINE(_SizeParser(), name, default, help, **options)


def _enum(name: str, words: tuple[str, ...], help_text: str, **options: Any) -> _Flag:
    return flags.DEFINE_enum, name, help_text, {"enum_values": words, **options}


def _float(name: str, help_text: str) -> _Flag:
    return flags.DEFINE_float, name, help_text, {}


def _integer(name: str, help_text: str, **options: Any) -> _Flag:
    return flags.DEFINE_integer, name, help_text, options


FLAGS: tuple[_Flag, ...] = (
    (
        flags.DEFINE_boolean,
        "private",
        "Train privately; false runs the same loop without clipping and noise.",
        {"default": True},
    ),
    _float("l2_norm_clip", "Bound on the L2 norm of one example's gradient."),
    _enum(
        "clipping",
        tuple(CLIPPING),
        "How gradients are bounded: scaled down to the norm, as a whole or each layer "
        "to its share of it, equal or by dimension; all of them scaled to about the "
        "norm, or to the norm; a norm that "
        "follows a quantile of the gradients', from --l2_norm_clip on, or goes from "
        "there to --final_l2_norm_clip; each coordinate scaled by what was released "
        "before; or the rows of tables that a batch touches often alone.",
        default="norm",
    ),
    _float("target_quantile", "For --clipping=adaptive; 0.5 if not given."),
    _float(
        "final_l2_norm_clip", "For --clipping=scheduled: clip norm of the last step."
    ),
    _float("stability", "For --clipping=scaled: averages this small stay as they are."),
    (
        flags.DEFINE_string,
        "tables",
        "For --clipping=sparse_rows: a regular expression, found in the paths of "
        "parameters whose first axis is rows that few examples touch.",
        {"default": None},
    ),
    _float(
        "row_threshold", "For --clipping=sparse_rows: noisy count of a row to keep."
    ),
    _float("noise_multiplier", "Noise standard deviation over the clip norm."),
    _float("target_epsilon", "Solve for the noise that spends this by the last step."),
    _float("delta", "The delta of (epsilon, delta)-differential privacy."),
    _float("max_epsilon", "Stop before the step that would pass this epsilon."),
    (
        flags.DEFINE_string,
        "budget_file",
        "File of one budget that this run shares with others, each of which may be "
        "chosen by what those before it gave; made if there is none.",
        {},
    ),
    _float(
        "budget_epsilon",
        "For --budget_file: epsilon of all runs that share it, at --delta.",
    ),
    (
        flags.DEFINE_boolean,
        "take_rest",
        "For --budget_file: the least noise with which the budget admits the run.",
        {},
    ),
    _enum(
        "sampling",
        tuple(SAMPLERS),
        "How examples enter a step. deterministic and shuffle: no amplification.",
        default="poisson",
    ),
    _integer(
        "max_batch_size",
        "For --sampling=truncated_poisson: examples of a step that are kept.",
        lower_bound=1,
    ),
    _integer(
        "period",
        "For --sampling=cyclic_poisson: groups of examples that take turns.",
        lower_bound=1,
    ),
    _integer(
        "total_participations",
        "For --sampling=random_allocation: steps of a cycle that an example is in.",
        lower_bound=1,
    ),
    _integer(
        "min_separation",
        "For --sampling=b_min_sep: least distance of two steps of an example.",
        lower_bound=1,
    ),
    _float(
        "noise_ratio",
        "Noise multiplier of the last steps over that of the first, in 8 stages.",
    ),
    _integer(
        "full_steps",
        "Each example has a budget of its own, of so many steps at the clip norm, and "
        "pays for what it adds; with --sampling=deterministic.",
        lower_bound=1,
    ),
    _enum(
        "noise",
        NOISES,
        "What is added to the sum: Gaussian floats, or integers on a grid, exactly "
        "drawn; discrete with --sampling=deterministic or shuffle.",
        default="gaussian",
    ),
    _float(
        "granularity",
        "For --noise=discrete: step of the grid, a power of two; fine if not given.",
    ),
    _enum(
        "rounding",
        ROUNDINGS,
        "For --noise=discrete: what is rounded to the grid, the sum (if not given) or "
        "each example, so that sums are exact.",
    ),
    _enum(
        "correlated_noise",
        ("none", *STRATEGIES),
        "Noise that cancels over steps (DP-FTRL): with --sampling=deterministic, "
        "shuffle, cyclic_poisson or b_min_sep.",
        default="none",
    ),
    _integer(
        "bands",
        "For --correlated_noise: steps, or buffers, that the noise remembers.",
        lower_bound=1,
    ),
    _integer("batch_size", "Expected number of examples a step.", lower_bound=1),
    _float("epochs", "Passes over the data; or give --steps."),
    _integer("steps", "Number of steps; or give --epochs.", lower_bound=1),
    _enum(
        "optimizer", tuple(OPTIMIZERS), "The optimizer behind the noise.", default="sgd"
    ),
    _float("learning_rate", "Learning rate, the peak of the schedule."),
    _float("momentum", "For --optimizer=momentum and ftrl; 0.9 if not given."),
    _float("weight_decay", "For --optimizer=adamw; 1e-4 if not given."),
    _enum("schedule", SCHEDULES, "Learning rate over the steps.", default="constant"),
    _integer(
        "warmup_steps",
        "For --schedule=warmup: steps of linear rise; a tenth if not given.",
        lower_bound=1,
    ),
    _float(
        "sharpness_radius",
        "Take gradients this far uphill, along the last released one (DP-SAT).",
    ),
    _float("ema_decay", "Keep an exponential moving average of the parameters."),
    (
        _define_size,
        "microbatch_size",
        "Examples whose gradients are in memory at a time; auto finds the largest "
        "number that fits --memory_budget.",
        {"default": None},
    ),
    _integer(
        "memory_budget",
        "For --microbatch_size=auto: bytes of a device that the gradient of a chunk "
        "may take; what is free if not given.",
        lower_bound=1,
    ),
    _enum("engine", ENGINES, "Clipping engine: the same numbers.", default="auto"),
    _integer(
        "seed",
        "Make the run reproducible. Whoever knows the seed can take the noise away, so "
        "give none for a model that is to be released.",
        lower_bound=0,
    ),
    (flags.DEFINE_string, "run_dir", "Folder of the run.", {}),
    (
        flags.DEFINE_boolean,
        "resume",
        "Go on with the run in --run_dir.",
        {"default": False},
    ),
    _integer("log_every", "Steps between lines of metrics.", default=10, lower_bound=1),
    _integer(
        "checkpoint_every", "Steps between checkpoints.", default=10, lower_bound=1
    ),
    (flags.DEFINE_boolean, "progress", "Show progress.", {"default": True}),
)
"""In the order of --help."""
