"""The flags of the command line, and what they mean together."""

import decimal
import math
from typing import Any

from absl import flags

from dpjax import _check
from dpjax.accounting import accountants
from dpjax.accounting.commands.settings import Run, Settings

COMMANDS = {
    "epsilon": ("noise_multiplier", "num_steps", "delta"),
    "delta": ("noise_multiplier", "num_steps", "epsilon"),
    "noise": ("num_steps", "delta", "epsilon"),
    "steps": ("noise_multiplier", "delta", "epsilon"),
    "curve": ("noise_multiplier", "num_steps", "delta"),
    "compare": ("noise_multiplier", "num_steps", "delta"),
    "tradeoff": ("noise_multiplier", "num_steps", "delta"),
}
"""The commands, with what each has to be told; what it solves for it must not be."""

_LENGTHS = ("num_steps", "num_epochs")


class CommandError(ValueError):
    """A command line that cannot be right."""


class _Whole(flags.ArgumentParser):
    """A whole number, as 1000000000 or as 1e9."""

    syntactic_help = "a whole number"

    def parse(self, argument: Any) -> int:
        """Return the number, or raise a ValueError."""
        try:
            number = decimal.Decimal(str(argument))
        except decimal.InvalidOperation:
            raise ValueError("not a whole number") from None
        if not number.is_finite() or number.adjusted() > 18 or number % 1:
            raise ValueError("not a whole number of at most 19 digits")
        return int(number)


_NUMBERS = {
    "noise_multiplier": "Noise standard deviation in clip norms.",
    "sampling_prob": "Probability that an example enters a step.",
    "batch_size": "Expected batch size, with --num_examples.",
    "num_epochs": "Epochs of the run, instead of --num_steps.",
    "delta": "The delta of the guarantee; of tradeoff, the regret of Gaussian DP.",
    "epsilon": "The epsilon aimed at, or at which delta is asked for.",
}
_WHOLE_NUMBERS = {
    "num_examples": "Examples of the data set, with --batch_size.",
    "num_steps": "Steps of the run.",
}


def define(flag_values: flags.FlagValues) -> None:
    """Define the flags; none that decides about privacy has a default."""
    own: dict[str, Any] = {"flag_values": flag_values}
    for name, text in _NUMBERS.items():
        flags.DEFINE_float(name, None, text, **own)
    serializer: flags.ArgumentSerializer = flags.ArgumentSerializer()
    for name, text in _WHOLE_NUMBERS.items():
        flags.DEFINE(_Whole(), name, None, text, flag_values, serializer)
    names = list(accountants.NAMES)
    flags.DEFINE_enum("accountant", "exact", names, "Who computes.", **own)
    text = "Also give the guarantee for so many examples of one person."
    flags.DEFINE_multi_integer("group_size", [], text, lower_bound=2, **own)
    limits: dict[str, Any] = {"lower_bound": 2, "upper_bound": 10_000}
    flags.DEFINE_integer("points", 20, "Points of a curve.", **limits, **own)
    flags.DEFINE_boolean("json", False, "Print JSON.", **own)
    flags.DEFINE_string("plot", None, "Write a picture here.", **own)


def read(command: str, flag_values: flags.FlagValues) -> Settings:
    """Check the flags against each other and against the command.

    Raises:
      CommandError: flags are missing, or do not belong together.
      ValueError: a number is out of range.
    """
    value: dict[str, Any] = {name: flag_values[name].value for name in flag_values}
    wanted = COMMANDS[command]
    for name in ("noise_multiplier", "delta", "epsilon"):
        _require((value[name] is not None) == (name in wanted), name in wanted, name)
    if "num_steps" in wanted:
        _exactly_one(value, _LENGTHS)
    else:
        for name in _LENGTHS:
            _require(value[name] is None, False, name)
    rate = _sampling_prob(value)
    run = Run(
        noise_multiplier=_optional(_check.non_negative, value, "noise_multiplier"),
        sampling_prob=rate,
        num_steps=_num_steps(value, rate),
        num_examples=value["num_examples"],
        batch_size=value["batch_size"],
    )
    return Settings(
        run=run,
        delta=_optional(_check.open_unit, value, "delta"),
        epsilon=_optional(_check.non_negative, value, "epsilon"),
        accountant=value["accountant"],
        group_sizes=tuple(sorted(set(value["group_size"]))),
        points=value["points"],
    )


def _optional(check: Any, value: dict[str, Any], name: str) -> Any:
    return None if value[name] is None else check(f"--{name}", value[name])


def _sampling_prob(value: dict[str, Any]) -> float:
    sizes = [value[name] for name in ("num_examples", "batch_size")]
    rate = value["sampling_prob"]
    if (rate is None) == (None in sizes) or (rate is not None and any(sizes)):
        raise CommandError(
            "Expected either --sampling_prob, or --num_examples and --batch_size, got "
            f"--sampling_prob={rate}, --num_examples={sizes[0]}, "
            f"--batch_size={sizes[1]}."
        )
    if rate is not None:
        return _check.probability("--sampling_prob", rate)
    count = _check.integer("--num_examples", sizes[0], minimum=1)
    batch = _check.positive("--batch_size", sizes[1])
    return _check.probability("--batch_size / --num_examples", batch / count)


def _num_steps(value: dict[str, Any], rate: float) -> int | None:
    if value["num_epochs"] is None:
        if value["num_steps"] is None:
            return None
        return _check.integer("--num_steps", value["num_steps"], minimum=0)
    epochs = _check.non_negative("--num_epochs", value["num_epochs"])
    if value["num_examples"] is None:
        steps = round(epochs / rate, 6)
    else:
        steps = epochs * value["num_examples"] / value["batch_size"]
    if steps > 1e18:
        _check.fail("at most 1e18 steps", "--num_epochs", epochs)
    return math.ceil(steps)


def _exactly_one(value: dict[str, Any], names: tuple[str, ...]) -> None:
    given = [f"--{name}={value[name]}" for name in names if value[name] is not None]
    if len(given) != 1:
        either = " or ".join(f"--{name}" for name in names)
        found = " and ".join(given) or "neither"
        raise CommandError(f"Expected either {either}, got {found}.")


def _require(holds: bool, wanted: bool, name: str) -> None:
    if not holds:
        found = "none" if wanted else "it"
        expected = f"--{name}" if wanted else f"no --{name} with this command"
        raise CommandError(f"Expected {expected}, got {found}.")
