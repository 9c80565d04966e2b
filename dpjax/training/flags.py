"""Flags of a training script, and what they mean.

`define_flags` defines them, `apply_defaults` fills in what was not given (a preset, or
the settings of a run that is resumed), and `read_flags` checks them against each other
and returns an `Options`.
"""

from collections.abc import Mapping
from typing import Any

from absl import flags

from dpjax.training import flag_table
from dpjax.training.catalogue import STRATEGIES, FlagError
from dpjax.training.options import OF_SAMPLERS, Options

_ALTERNATIVES = (
    ("noise_multiplier", "target_epsilon", "take_rest"),
    ("epochs", "steps"),
)
_OF_PRIVACY = (
    "l2_norm_clip",
    "noise_multiplier",
    "target_epsilon",
    "delta",
    "max_epsilon",
    "budget_file",
    "budget_epsilon",
    "take_rest",
    "noise_ratio",
    "full_steps",
)
_ONLY_WITH = {
    "momentum": ("optimizer", ("momentum", "ftrl")),
    "weight_decay": ("optimizer", ("adamw",)),
    "warmup_steps": ("schedule", ("warmup",)),
    "max_batch_size": ("sampling", ("truncated_poisson",)),
    "period": ("sampling", ("cyclic_poisson",)),
    "total_participations": ("sampling", ("random_allocation",)),
    "min_separation": ("sampling", ("b_min_sep",)),
    "memory_budget": ("microbatch_size", ("auto",)),
    "target_quantile": ("clipping", ("adaptive",)),
    "final_l2_norm_clip": ("clipping", ("scheduled",)),
    "stability": ("clipping", ("scaled",)),
    "tables": ("clipping", ("sparse_rows",)),
    "row_threshold": ("clipping", ("sparse_rows",)),
    "granularity": ("noise", ("discrete",)),
    "rounding": ("noise", ("discrete",)),
    "full_steps": ("sampling", ("deterministic",)),
    "bands": ("correlated_noise", tuple(word for word in STRATEGIES if word != "tree")),
}
_NEEDED = (
    *OF_SAMPLERS,
    "final_l2_norm_clip",
    "stability",
    "tables",
    "row_threshold",
)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of the training loop.

    Data and model are the script's own affair. No flag that decides about privacy has a
    default here; a preset of the script may give one.

    Args:
      flag_values: where to define them.
    """
    for kind, name, help_text, options in flag_table.FLAGS:
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
    names = [name for _, name, *_ in flag_table.FLAGS]
    value: dict[str, Any] = {name: flag_values[name].value for name in names}
    if not value["private"]:
        for name in _OF_PRIVACY:
            _require(value[name] is None, f"no --{name} with --private=false")
    else:
        _exactly_one(value, *_ALTERNATIVES[0])
        _check_shared(value)
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
    if value["noise_ratio"] is not None:
        plain = value["correlated_noise"] == "none" and value["noise"] == "gaussian"
        _require(plain, "neither --correlated_noise nor --noise with --noise_ratio")
    if value["full_steps"] is not None:
        others = ("correlated_noise", "noise", "clipping")
        usual = [value[name] for name in others] == ["none", "gaussian", "norm"]
        plain = usual and value["noise_ratio"] is None
        said = "none of --correlated_noise, --noise, --noise_ratio and --clipping"
        _require(plain, f"{said} with --full_steps")
    if value["noise"] == "discrete":
        plain = value["correlated_noise"] == "none"
        _require(plain, "no --correlated_noise with --noise=discrete")
        static = value["clipping"] not in (
            "adaptive",
            "scheduled",
            "scaled",
            "sparse_rows",
        )
        _require(static, "no such --clipping with --noise=discrete")
        fixed = value["sampling"] in ("deterministic", "shuffle")
        _require(fixed, "--sampling=deterministic or shuffle with --noise=discrete")
    _require(not value["resume"] or value["run_dir"], "--run_dir with --resume")
    return Options(**value)


def _check_shared(value: Mapping[str, Any]) -> None:
    """Check the flags of a budget that runs share against each other."""
    shared = _is_given(value["budget_file"])
    for name in ("budget_epsilon", "take_rest"):
        _require(shared or not _is_given(value[name]), f"--budget_file with --{name}")
    has_total = _is_given(value["budget_epsilon"])
    _require(has_total or not shared, "--budget_epsilon with --budget_file")


def _is_given(value: Any) -> bool:
    return value is not None and value is not False


def _exactly_one(value: Mapping[str, Any], *names: str) -> None:
    given = [name for name in names if _is_given(value[name])]
    found = " and ".join(f"--{name}={value[name]}" for name in given) or "neither"
    if len(given) != 1:
        *first, last = [f"--{name}" for name in names]
        raise FlagError(f"Expected either {', '.join(first)} or {last}, got {found}.")


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
    own = [name for _, name, *_ in flag_table.FLAGS if name not in _NOT_SETTINGS]
    return {name: flag_values[name].value for name in [*names, *own]}


_NOT_SETTINGS = ("run_dir", "resume", "seed", "checkpoint_every", "progress")
