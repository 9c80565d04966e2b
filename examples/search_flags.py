"""The flags of a private search: what is tried, and how many runs on average."""

import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any

from absl import flags

from dpjax import training
from dpjax.accounting import Repetitions

SEARCHED = (
    "learning_rate",
    "l2_norm_clip",
    "clipping",
    "target_quantile",
    "final_l2_norm_clip",
    "stability",
    "optimizer",
    "momentum",
    "weight_decay",
    "schedule",
    "warmup_steps",
    "sharpness_radius",
    "ema_decay",
    "augmentations",
)
"""The flags that can be searched for: what a run costs does not depend on them."""

SHAPE = 0.5
"""Of the law of the number of runs: cheaper than a geometric one."""

_MOST = 1000
_WITHOUT = (
    "max_epsilon",
    "budget_file",
    "start_from",
    "during_training",
    "distributed",
)

Candidate = dict[str, Any]
"""Flag values by name."""


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of a private search."""
    flags.DEFINE_string(
        "search",
        None,
        "FLAG=V1,V2;FLAG=V1,V2,V3: keep the best of a secret number of private runs, "
        "each with values drawn from these. Epsilon is then that of the whole search.",
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "search_runs",
        None,
        "For --search: runs on average; how many there are is drawn, and not told.",
        lower_bound=1.0,
        flag_values=flag_values,
    )


def candidates(flag_values: flags.FlagValues) -> list[Candidate]:
    """Return all that may be tried, the product of the values; none without a search.

    Raises:
      FlagError: --search is not of its form, or names what cannot be searched for.
    """
    text = flag_values["search"].value
    if text is None:
        return []
    values: dict[str, list[Any]] = {}
    for part in text.split(";"):
        name, _, listed = (word.strip() for word in part.partition("="))
        if name not in SEARCHED or name in values:
            raise training.FlagError(
                "Expected each of the flags that are searched for once, of "
                f"{', '.join(SEARCHED)}, got {part!r} in --search={text!r}."
            )
        values[name] = [_value(flag_values, name, word) for word in listed.split(",")]
        if len(set(values[name])) < len(values[name]):
            raise training.FlagError(f"Expected different values, got {part!r}.")
    if math.prod(map(len, values.values())) > _MOST:
        raise training.FlagError(
            f"Expected at most {_MOST} candidates, got --search={text!r}."
        )
    return [
        dict(zip(values, chosen, strict=True))
        for chosen in itertools.product(*values.values())
    ]


def _value(flag_values: flags.FlagValues, name: str, word: str) -> Any:
    try:
        return flag_values[name].parser.parse(word.strip())
    except ValueError as error:
        raise training.FlagError(
            f"Expected values of --{name}, got {word!r} in --search: {error}."
        ) from None


def complete(flag_values: flags.FlagValues) -> None:
    """Let the first candidate stand for the others.

    Raises:
      FlagError: a flag that is searched for was given, too.
    """
    for name, value in next(iter(candidates(flag_values)), {}).items():
        if flag_values[name].present:
            raise training.FlagError(f"Expected --{name} or a search for it, got both.")
        flag_values[name].value = value


def check(flag_values: flags.FlagValues) -> None:
    """Raise `FlagError` where the flags do not fit together."""
    searches = flag_values["search"].value is not None
    if searches != (flag_values["search_runs"].value is not None):
        raise training.FlagError(
            "Expected --search and --search_runs together, got one of them."
        )
    if not searches:
        return
    if flag_values["resume"].value:
        raise training.FlagError("Expected one run to take up, got --search.")
    for name in _WITHOUT:
        if flag_values[name].value:
            raise training.FlagError(f"Expected no --{name} with --search.")
    if not flag_values["private"].value:
        raise training.FlagError("Expected a private run with --search.")
    repetitions(flag_values)


def repetitions(flag_values: flags.FlagValues) -> Repetitions:
    """Return the law of the number of runs."""
    mean = flag_values["search_runs"].value
    try:
        return Repetitions(mean=mean, shape=SHAPE)
    except ValueError:
        raise training.FlagError(
            f"Expected a finite mean number of runs, got --search_runs={mean}."
        ) from None


def with_values(flag_values: flags.FlagValues, values: Candidate) -> flags.FlagValues:
    """Return the flags of one run: no search, and these values."""
    own = copy.deepcopy(flag_values)
    for name, value in {"search": None, "search_runs": None, **values}.items():
        own[name].value = value
    return own


def each(flag_values: flags.FlagValues) -> Iterator[flags.FlagValues]:
    """Yield the flags of a run of every candidate."""
    for candidate in candidates(flag_values):
        yield with_values(flag_values, candidate)
