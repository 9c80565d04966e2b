"""Attacks on a trainer as a black box: pairs of worlds, and what is scored in them.

In one world the canary is among the examples, in the other it is not; all else is the
same. An attack scores what many runs in both worlds released, and the scores bound
epsilon from below: above what the plan states, the promise is broken.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import numpy as np
from broken_trainers import Array, Trainer, plan
from scipy import special

from dpjax.auditing import LowerBound, epsilon_from_scores
from dpjax.mechanism import DPSGD

ROWS = 20
FULL = plan(4.0, rows=ROWS, steps=4)
"""All rows in all steps: the promise is that of a Gaussian mechanism, at any delta."""

SAMPLED = plan(1.0, rows=ROWS, steps=40, batch=2)
HALVED = plan(4.0, rows=ROWS, steps=8, batch=10)
FEW = plan(10.0, rows=5, steps=20)

LARGE = 100.0
"""The norm of a canary's gradient, in clip norms."""

_NO_POWER = 1e-6
"""What is nothing, beside noise: logarithms stay finite."""


@dataclasses.dataclass(frozen=True)
class Attack:
    """One pair of worlds, and a score that is larger where the canary is.

    Attributes:
        title: What the canary is.
        sees: The model at the end, or all steps.
        plan: The promise.
        others: (rows, 2, width) the examples of both worlds.
        canary: (1, 2, width) the one that is in the first world only.
        score: Released sums of steps, or of all steps when the end is seen: (runs, ...,
            2, width) -> (runs,).
        method: Of `epsilon_from_scores`; "gdp" where the promise is a Gaussian curve.
        delta: At which epsilon is stated and bounded.
        runs: In each world.
    """

    title: str
    sees: Literal["end", "steps"]
    plan: DPSGD
    others: Array
    canary: Array
    score: Callable[[Array], Array]
    method: str = "gdp"
    delta: float = 1e-5
    runs: int = 1500

    @property
    def stated(self) -> float:
        """The epsilon that the plan promises."""
        return float(self.plan.epsilon(self.delta))

    def scores(self, trainer: Trainer, seed: int) -> tuple[Array, Array]:
        """Return the scores of runs with the canary, and of runs without."""
        both = np.concatenate([self.others, self.canary])
        found = []
        for examples, own_seed in ((both, 2 * seed), (self.others, 2 * seed + 1)):
            steps = np.asarray(trainer(self.plan, examples, self.runs, own_seed))
            seen = steps.sum(axis=1) if self.sees == "end" else steps
            # Whoever sees a model that is not a number knows it.
            with np.errstate(invalid="ignore", over="ignore"):
                scores = self.score(seen)
            found.append(np.nan_to_num(scores, nan=1e9, posinf=1e9))
        return found[0], found[1]

    def bound(self, trainer: Trainer, *, seed: int, significance: float) -> LowerBound:
        """Return a lower bound on the epsilon of a trainer."""
        return epsilon_from_scores(
            *self.scores(trainer, seed),
            delta=self.delta,
            significance=significance,
            method=self.method,
        )


def rows(count: int, value: float = 0.0, *, layer: int = 0, width: int = 2) -> Array:
    """Return gradients along the first coordinate of a layer: (count, 2, width)."""
    found = np.zeros((count, 2, width), np.float32)
    found[:, layer, 0] = value
    return found


# Scores.


def along(seen: Array, *, layer: int = 0) -> Array:
    """Return how far the model went along the first coordinate of a layer."""
    return seen[:, layer, 0]


def is_not_finite(seen: Array) -> Array:
    return (~np.isfinite(seen)).any(axis=(1, 2)).astype(float)


def energy(seen: Array) -> Array:
    """Return the logarithm of the power of the noise, off the examples' axis."""
    return np.log((seen[:, 1] ** 2).mean(axis=1) + _NO_POWER)


def energy_of_steps(seen: Array) -> Array:
    # Weighed by how far an adaptive clip norm has gone by then.
    powers = np.log((seen[:, :, 1] ** 2).mean(axis=2) + _NO_POWER)
    return powers @ np.arange(seen.shape[1])


def spread_of_steps(seen: Array) -> Array:
    """Return how much the steps differ: not at all, where noise is the same."""
    steps = np.nan_to_num(seen[:, :, 0, 0], posinf=0.0, neginf=0.0)
    return np.log(steps.std(axis=1) + _NO_POWER)


def last_of_turn(seen: Array) -> Array:
    """Return the mean over epochs of the last batch, which has the last row."""
    per_epoch = round(1 / SAMPLED.sampling_prob)
    return seen[:, per_epoch - 1 :: per_epoch, 0, 0].mean(axis=1)


def anywhere_in_epoch(seen: Array) -> Array:
    """Return how much likelier the canary in one batch of each epoch is than nowhere.

    All others point against it. Without it, the last batch lacks one row.
    """
    per_epoch = round(1 / SAMPLED.sampling_prob)
    full = np.full(per_epoch, -float(SAMPLED.expected_batch_size))
    without = full + (np.arange(per_epoch) == per_epoch - 1)
    with_it = full + 2 * np.eye(per_epoch)
    steps = seen[:, :, 0, 0].reshape(len(seen), -1, 1, per_epoch)
    variance = SAMPLED.noise_multiplier**2
    fits = [
        -((steps - means) ** 2).sum(axis=3) / (2 * variance)
        for means in (with_it, without[None])
    ]
    ins = special.logsumexp(fits[0], axis=2) - np.log(per_epoch)
    return (ins - fits[1][:, :, 0]).sum(axis=1)


def _attacks() -> tuple[Attack, ...]:
    nobody, canary = rows(ROWS - 1), rows(1, LARGE)
    against = {"others": rows(ROWS - 1, -LARGE), "canary": canary}
    of_two_sizes = np.concatenate([rows(2, 0.01, width=100), rows(2, LARGE, width=100)])
    median = {"others": of_two_sizes, "canary": rows(1, LARGE, width=100)}
    many = {"method": "clopper_pearson", "delta": 1e-2, "runs": 3000}
    few = {"method": "gdp", "runs": 1000}
    second = functools.partial(along, layer=1), rows(1, LARGE, layer=1)
    end = functools.partial(Attack, sees="end")
    steps = functools.partial(Attack, sees="steps")
    sampled = {"plan": SAMPLED, **against, **many}
    return (
        end("far out", plan=FULL, others=nobody, canary=second[1], score=second[0]),
        end("against all others", plan=FULL, **against, score=along),
        end(
            "NaN", plan=FULL, others=nobody, canary=rows(1, np.nan), score=is_not_finite
        ),
        end("moves the median", plan=FEW, **median, score=energy, **few),
        end("in a sample", **sampled, score=along),
        steps("moves the median", plan=FEW, **median, score=energy_of_steps, **few),
        steps(
            "in some steps",
            plan=HALVED,
            others=nobody,
            canary=canary,
            score=spread_of_steps,
            **many,
        ),
        steps("in the last batch", **sampled, score=last_of_turn),
        steps("in one batch an epoch", **sampled, score=anywhere_in_epoch),
    )


ATTACKS = _attacks()
