"""Few rows of a product of axes in which every two values still meet."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]


def rows(
    axes: Mapping[str, Sequence[Any]],
    allowed: Callable[[Row], bool] = lambda row: True,
    seed: int = 0,
    tries: int = 60,
) -> list[Row]:
    """Return rows that together hold each pair of values that an allowed row can hold.

    Args:
      axes: values by the name of the axis.
      allowed: tells which rows may be drawn.
      seed: of the draws.
      tries: rows that are drawn for each that is kept: more tries, fewer rows.
    """
    generator = np.random.default_rng(seed)
    names = list(axes)
    sizes = [len(axes[name]) for name in names]
    missing = {
        (a, i, b, j)
        for a, b in itertools.combinations(range(len(names)), 2)
        for i in range(sizes[a])
        for j in range(sizes[b])
    }
    kept = []
    while missing:
        wanted = min(missing)
        best, gain = None, set()
        for _ in range(tries):
            drawn = [int(generator.integers(size)) for size in sizes]
            drawn[wanted[0]], drawn[wanted[2]] = wanted[1], wanted[3]
            row = {n: axes[n][i] for n, i in zip(names, drawn, strict=True)}
            if not allowed(row):
                continue
            found = _pairs(drawn) & missing
            if len(found) > len(gain):
                best, gain = row, found
        missing -= gain | {wanted}
        if best is not None:
            kept.append(best)
    return kept


def _pairs(drawn: Sequence[int]) -> set[tuple[int, int, int, int]]:
    places = list(enumerate(drawn))
    return {(a, i, b, j) for (a, i), (b, j) in itertools.combinations(places, 2)}
