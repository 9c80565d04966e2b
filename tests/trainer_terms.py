"""What the checks of trainers share: on which terms, and what comes of them."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
from broken_trainers import Array

ROWS = 20

LARGE = 100.0
"""The norm of a canary's gradient, in clip norms."""


@dataclasses.dataclass(frozen=True)
class Terms:
    """On which terms a trainer is checked.

    Attributes:
        absent: What has the canary's place where it is not: nothing, or a row without a
            gradient, when the number of rows is public.
        samples: Whether the trainer draws batches, or takes what it is given.
        effort: What the runs of an attack are multiplied by.
        seed: Of the runs.
    """

    absent: Literal["removed", "null"] = "removed"
    samples: bool = True
    effort: float = 1.0
    seed: int = 0


USUAL = Terms()
"""A row is there or not, and batches are drawn."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        caught: Whether the promise is broken.
        found: What was measured.
        allowed: What is promised.
        where: The case of those numbers, and all others that break the promise.
    """

    caught: bool
    found: float
    allowed: float
    where: str


Check = Callable[..., Verdict | None]
"""A check of a trainer, on some terms; None where it does not apply."""


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict furthest above the promise, with all cases that are above."""
    ranked = sorted(verdicts, key=lambda v: v.found / v.allowed, reverse=True)
    where = [verdict.where for verdict in ranked if verdict.caught]
    return dataclasses.replace(ranked[0], where=", ".join(where or [ranked[0].where]))


def without(others: Array, canary: Array, absent: str) -> Array:
    """Return the examples of the world without the canary."""
    if absent == "removed":
        return others
    return np.concatenate([others, np.zeros_like(canary)])
