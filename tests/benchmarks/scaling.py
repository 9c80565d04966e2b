"""The third table: how time grows with the batch and with the sequence."""

import statistics
from collections.abc import Iterator
from typing import Any

import contestants
import programs
import timing
import workloads

_BATCHES = [64, 128, 256, 512, 1024]
_GPT = workloads.SPECS["gpt_64"].sizes | {"batch": 4}

SWEEPS: dict[str, tuple[str, dict[str, int], str, list[int]]] = {
    "MLP": ("mlp", {"width": 1024}, "batch", _BATCHES),
    "3x3 CNN": ("cnn", {"channels": 32, "hidden": 256}, "batch", _BATCHES),
    "GPT, 4 blocks": ("gpt", _GPT, "positions", [64, 128, 256, 512]),
    "dense layers of a GPT block": (
        "position_mlp",
        {"batch": 16, "width": 256},
        "positions",
        [16, 64, 256, 1024],
    ),
}
"""Title: model, its other sizes, the size that grows, and its values."""

QUICK: dict[str, tuple[str, dict[str, int], str, list[int]]] = {
    "bag": ("embedding_bag", {"rows": 9, "width": 4, "ids": 3}, "batch", [2, 4]),
}
"""What stands for `SWEEPS` in a trial of the command."""

_CONTESTANTS = ("plain", "auto")


def measure(options: programs.Options) -> Iterator[dict[str, Any]]:
    """Yield the rows: milliseconds at each size, the exponent of their growth."""
    for title, sweep in (QUICK if options.quick else SWEEPS).items():
        yield _row(title, *sweep, options)


def _row(
    title: str,
    model: str,
    fixed: dict[str, int],
    along: str,
    values: list[int],
    options: programs.Options,
) -> dict[str, Any]:
    at_size = [_seconds(model, {**fixed, along: value}, options) for value in values]
    times = {name: [found[name] for found in at_size] for name in _CONTESTANTS}
    return {
        "title": title,
        "along": along,
        "values": values,
        "ms": {name: [1e3 * t for t in times[name]] for name in times},
        "exponent": {name: timing.exponent(values, times[name]) for name in times},
    }


def _seconds(
    model: str, sizes: dict[str, int], options: programs.Options
) -> dict[str, float]:
    """Return the median seconds of each contestant."""
    work = workloads.build(model, sizes)
    args = (work.params, *work.batch)
    calls = {}
    for name in _CONTESTANTS:
        fn = contestants.CONTESTANTS[name](work.loss)
        calls[name] = programs.repeated(programs.compiled(fn, args, 1).run, args)
        calls[name]()
    times = timing.side_by_side(calls, options.rounds, turn=options.turn)
    return {name: statistics.median(rounds) for name, rounds in times.items()}
