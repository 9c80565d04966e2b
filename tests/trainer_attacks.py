"""Attacks on a trainer as a black box: pairs of worlds, and what is scored in them.

In one world the canary is among the examples; in the other it is not, or an example
without a gradient has its place; all else is the same. An attack scores what many runs
in both worlds released, and the scores bound epsilon from below: above what the plan
states, the promise is broken.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import numpy as np
from broken_trainers import Array, Trainer, plan
from scipy import special
from trainer_terms import LARGE, ROWS, Terms, without

from dpjax.auditing import LowerBound, epsilon_from_scores
from dpjax.mechanism import DPSGD

FULL = plan(2.0, rows=ROWS, steps=4)
"""All rows in all steps: the promise is that of a Gaussian mechanism, at any delta."""

FEW = plan(10.0, rows=5, steps=20)
SAMPLED = plan(1.0, rows=30, steps=60, batch=2)
HALVED = plan(4.0, rows=ROWS, steps=8, batch=10)

SAMPLED_DELTA = 5e-2
"""A promise is a curve: of its points, the one at which few runs show much."""

_NO_POWER = 1e-6
"""What is nothing, beside noise: logarithms stay finite."""


@dataclasses.dataclass(frozen=True, eq=False)
class Worlds:
    """A promise, and two data sets of which one has the canary.

    Attributes:
        plan: The promise.
        others: (rows, 2, width) the examples of both worlds.
        canary: (1, 2, width) the one that is in the first world only.
        method: Of `epsilon_from_scores`; "gdp" where the promise is a Gaussian curve.
        delta: At which epsilon is stated and bounded.
        runs: In each world.
    """

    plan: DPSGD
    others: Array
    canary: Array
    method: str = "gdp"
    delta: float = 1e-5
    runs: int = 1500

    @property
    def stated(self) -> float:
        """The epsilon that the plan promises."""
        return float(self.plan.epsilon(self.delta))

    def examples(self, absent: str) -> tuple[Array, Array]:
        """Return the examples with the canary, and those without."""
        with_it = np.concatenate([self.others, self.canary])
        return with_it, without(self.others, self.canary, absent)


@dataclasses.dataclass(frozen=True, eq=False)
class Attack:
    """A score that is larger where the canary is.

    Attributes:
        title: What the canary does.
        sees: The model at the end, or all steps.
        worlds: Where it is tried.
        score: The sum of the steps, or the steps, (runs, ..., 2, width) -> (runs,).
    """

    title: str
    sees: Literal["end", "steps"]
    worlds: Worlds
    score: Callable[[Array], Array]

    def scores(self, trainer: Trainer, terms: Terms) -> tuple[Array, Array]:
        """Return the scores of runs with the canary, and of runs without."""
        found = []
        for steps in released(trainer, self.worlds, terms):
            with np.errstate(invalid="ignore", over="ignore"):
                seen = steps.sum(axis=1) if self.sees == "end" else steps
                scores = self.score(seen)
            # Whoever sees a model that is not a number knows it.
            found.append(np.nan_to_num(scores, nan=1e9, posinf=1e9))
        return found[0], found[1]

    def bound(
        self, trainer: Trainer, terms: Terms, *, significance: float
    ) -> LowerBound:
        """Return a lower bound on the epsilon of a trainer."""
        return epsilon_from_scores(
            *self.scores(trainer, terms),
            delta=self.worlds.delta,
            significance=significance,
            method=self.worlds.method,
        )


@functools.lru_cache(maxsize=8)
def released(trainer: Trainer, worlds: Worlds, terms: Terms) -> tuple[Array, Array]:
    """Return the steps of many runs in either world; several attacks look at them."""
    runs = round(terms.effort * worlds.runs)
    examples = worlds.examples(terms.absent)
    first, second = (
        np.asarray(trainer(worlds.plan, each, runs, 2 * terms.seed + salt))
        for salt, each in enumerate(examples)
    )
    return first, second


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
    last = np.arange(per_epoch) == per_epoch - 1
    return _ratio(seen, 2 * np.eye(per_epoch), last[None])


def against_its_batch(seen: Array) -> Array:
    """Return the same where, without it, any batch of each epoch lacks one row."""
    one_of_them = np.eye(round(1 / SAMPLED.sampling_prob))
    return _ratio(seen, 2 * one_of_them, one_of_them)


def _ratio(seen: Array, with_it: Array, without_it: Array) -> Array:
    """Return log likelihood ratios of mixtures of the means of an epoch's steps.

    Means are (mixed, steps an epoch), above those of batches that point one way.
    """
    steps = seen[:, :, 0, 0].reshape(len(seen), -1, 1, with_it.shape[1])
    steps = steps + float(SAMPLED.expected_batch_size)
    fits = []
    for means in (with_it, without_it):
        exponents = -((steps - means) ** 2).sum(axis=3) / SAMPLED.noise_multiplier**2
        fits.append(special.logsumexp(exponents / 2, axis=2) - np.log(len(means)))
    return (fits[0] - fits[1]).sum(axis=1)


def _attacks() -> tuple[Attack, ...]:
    nobody, canary = rows(ROWS - 1), rows(1, LARGE)
    against = Worlds(FULL, rows(ROWS - 1, -LARGE), canary)
    far_out = Worlds(FULL, nobody, rows(1, LARGE, layer=1))
    not_a_number = Worlds(FULL, nobody, rows(1, np.nan))
    two_sizes = np.concatenate([rows(2, 0.01, width=100), rows(2, LARGE, width=100)])
    median = Worlds(FEW, two_sizes, rows(1, LARGE, width=100), runs=1000)
    # The curves of these are not Gaussian.
    sampled, halved = (
        Worlds(promise, others, canary, "clopper_pearson", SAMPLED_DELTA, 3000)
        for promise, others in ((SAMPLED, rows(29, -LARGE)), (HALVED, nobody))
    )
    return (
        Attack("far out", "end", far_out, functools.partial(along, layer=1)),
        Attack("against the others", "end", against, along),
        Attack("NaN", "end", not_a_number, is_not_finite),
        Attack("moves the median", "end", median, energy),
        Attack("in a sample", "end", sampled, along),
        Attack("moves the median", "steps", median, energy_of_steps),
        Attack("in some steps", "steps", halved, spread_of_steps),
        Attack("in the last batch", "steps", sampled, last_of_turn),
        Attack("in one batch an epoch", "steps", sampled, anywhere_in_epoch),
        Attack("against its batch", "steps", sampled, against_its_batch),
    )


ATTACKS = _attacks()
