"""Flags of a training script, and what they mean.

`define_flags` defines them, `apply_defaults` fills in what was not given (a preset, or
the settings of a run that is resumed), and `read_flags` checks them against each other
and returns an `Options`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from dpjax.training.catalogue import (
    CLIPPING,
    OPTIMIZERS,
    SAMPLERS,
    STRATEGIES,
    FlagError,
)
from dpjax.training.options import (
    ENGINES,
    OF_SAMPLERS,
    SCHEDULES,
    Options,
)

_ALTERNATIVES = (("noise_multiplier", "target_epsilon"), ("epochs", "steps"))
_OF_PRIVACY = (
    "l2_norm_clip",
    "noise_multiplier",
    "target_epsilon",
    "delta",
    "max_epsilon",
)
_ONLY_WITH = {
    "momentum": ("optimizer", ("momentum", "ftrl")),
    "weight_decay": ("optimizer", ("adamw",)),
    "warmup_steps": ("schedule", ("warmup",)),
    "max_batch_size": ("sampling", ("truncated_poisson",)),
    "period": ("sampling", ("cyclic_poisson",)),
    "total_participations": ("sampling", ("random_allocation",)),
    "min_separation": ("sampling", ("b_min_sep",)),
    "target_quantile": ("clipping", ("adaptive",)),
    "bands": ("correlated_noise", tuple(word for word in STRATEGIES if word != "tree")),
}
_NEEDED = OF_SAMPLERS


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of the training loop.

    Data and model are the script's own affair. No flag that decides about privacy has a
    default here; a preset of the script may give one.

    Args:
      flag_values: where to define them.
    """
    for kind, name, help_text, options in _FLAGS:
        default = options.get("default")
        rest = {key: value for key, value in options.items() if key != "default"}
        kind(name, default, help=help_text, flag_values=flag_values, **rest)


def apply_defaults(flag_values: flags.FlagValues, values: Mapping[str, Any]) -> None:
    """Set the flags that were not given on the command line.

    A flag that was given also puts its alternatives out of force: --noise_multiplier
    the target epsilon of a preset, --private=false all that is about privacy.

    Args:
      flag_values: parsed flags.
      values: flag values by name.

    Raises:
      FlagError: there is no flag of such a name.
    """
    given = {name for name in flag_values if flag_values[name].present}
    dropped = set(given)
    for group in _ALTERNATIVES:
        if given.intersection(group):
            dropped.update(group)
    if not flag_values["private"].value:
        dropped.update(_OF_PRIVACY)
    for name, (other, words) in _ONLY_WITH.items():
        if other in given and flag_values[other].value not in words:
            dropped.add(name)
    for name, value in values.items():
        if name not in flag_values:
            raise FlagError(f"Expected the name of a flag, got --{name}.")
        if name not in dropped:
            flag_values[name].value = value


def read_flags(flag_values: flags.FlagValues = flags.FLAGS) -> Options:
    """Check the flags against each other.

    Args:
      flag_values: parsed flags, defined by `define_flags`.

    Raises:
      FlagError: flags are missing or contradict each other; one line says which.
    """
    names = [name for _, name, *_ in _FLAGS]
    value: dict[str, Any] = {name: flag_values[name].value for name in names}
    if not value["private"]:
        for name in _OF_PRIVACY:
            _require(value[name] is None, f"no --{name} with --private=false")
    else:
        _exactly_one(value, *_ALTERNATIVES[0])
        for name in ("l2_norm_clip", "delta"):
            _require(value[name] is not None, f"--{name} (or --private=false)")
    _exactly_one(value, *_ALTERNATIVES[1])
    for name in ("batch_size", "learning_rate"):
        _require(value[name] is not None, f"--{name}")
    for name, (other, words) in _ONLY_WITH.items():
        listed = f"--{other}={' or '.join(words)}"
        fits = value[other] in words
        _require(value[name] is None or fits, f"--{name} only with {listed}")
        there = name not in _NEEDED or not fits or value[name] is not None
        _require(there, f"--{name} with {listed}")
    _require(not value["resume"] or value["run_dir"], "--run_dir with --resume")
    return Options(**value)


def _exactly_one(value: Mapping[str, Any], first: str, second: str) -> None:
    given = [name for name in (first, second) if value[name] is not None]
    found = " and ".join(f"--{name}={value[name]}" for name in given) or "neither"
    if len(given) != 1:
        raise FlagError(f"Expected either --{first} or --{second}, got {found}.")


def _require(condition: Any, what: str) -> None:
    if not condition:
        raise FlagError(f"Expected {what}.")


def flag_settings(flag_values: flags.FlagValues, names: list[str]) -> dict[str, Any]:
    """Return the flags that make a run what it is, to be kept in its config.json.

    Left out are those that change no number (where the run folder is, how often a
    checkpoint is written) and the seed, which is the secret of the noise.

    Args:
      flag_values: parsed flags.
      names: the script's own flags that belong to the run.
    """
    own = [name for _, name, *_ in _FLAGS if name not in _NOT_SETTINGS]
    return {name: flag_values[name].value for name in [*names, *own]}


_NOT_SETTINGS = ("run_dir", "resume", "seed", "checkpoint_every", "progress")

_Flag = tuple[Callable[..., Any], str, str, dict[str, Any]]


def _enum(name: str, words: tuple[str, ...], help_text: str, **options: Any) -> _Flag:
    return flags.DEFINE_enum, name, help_text, {"enum_values": words, **options}


def _float(name: str, help_text: str) -> _Flag:
    return flags.DEFINE_float, name, help_text, {}


def _integer(name: str, help_text: str, **options: Any) -> _Flag:
    return flags.DEFINE_integer, name, help_text, options


_FLAGS: tuple[_Flag, ...] = (
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
        "to its share of it; all of them scaled to about the norm; or a norm that "
        "follows a quantile of the gradients', from --l2_norm_clip on.",
        default="norm",
    ),
    _float("target_quantile", "For --clipping=adaptive; 0.5 if not given."),
    _float("noise_multiplier", "Noise standard deviation over the clip norm."),
    _float("target_epsilon", "Solve for the noise that spends this by the last step."),
    _float("delta", "The delta of (epsilon, delta)-differential privacy."),
    _float("max_epsilon", "Stop before the step that would pass this epsilon."),
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
    _float("ema_decay", "Keep an exponential moving average of the parameters."),
    _integer(
        "microbatch_size", "Examples whose gradients are in memory.", lower_bound=1
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
