"""Trainers with one bug each, over one correct DP-SGD, for audits to find.

The loss of an example is <params, example>: DP-SGD's promise is for every loss, and
with this one whoever audits chooses the gradients, which are the examples themselves.
Parameters are two layers of one width; many runs are done at once.

A trainer is a function `(plan, examples, runs, seed) -> steps`:

    plan:      a `DPSGD`, the promise; its clip norm is 1, the learning rate is 1
    examples:  (rows, 2, width) gradients
    steps:     (runs, num_steps, 2, width) what the parameters lose in each step, times
               the plan's divisor: what was released, in units of the clipped sum
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dpjax.mechanism import DPSGD

Array = np.ndarray
Trainer = Callable[[DPSGD, Array, int, int], Array]

CLIP_NORM = 1.0
ADAPTATION = 0.2
"""The step size of the adaptive clip norm, as Andrew et al. (2021) recommend it."""


def plan(noise_multiplier, *, rows, steps, batch=None):
    """Return a promise; without a batch size all rows take part in every step."""
    return DPSGD(
        num_examples=rows,
        expected_batch_size=rows if batch is None else batch,
        num_steps=steps,
        l2_norm_clip=CLIP_NORM,
        noise_multiplier=noise_multiplier,
    )


# Who takes part: (plan, generator, step, runs, rows) -> (runs, rows).


def poisson(plan, rng, step, runs, rows):
    return rng.random((runs, rows)) < plan.sampling_prob


def everyone(plan, rng, step, runs, rows):
    return np.ones((runs, rows), bool)


def in_turn(plan, rng, step, runs, rows):
    batch = int(plan.expected_batch_size)
    per_epoch = round(1 / plan.sampling_prob)
    taken = np.arange(rows) // batch == step % per_epoch
    return np.tile(taken, (runs, 1))


class Shuffled:
    """Batches in an order of the rows that is new in each epoch."""

    def __init__(self):
        self._order = None

    def __call__(self, plan, rng, step, runs, rows):
        batch = int(plan.expected_batch_size)
        per_epoch = round(1 / plan.sampling_prob)
        if step % per_epoch == 0:
            self._order = rng.random((runs, rows)).argsort(axis=1)
        return self._order // batch == step % per_epoch


# What is summed: (plan, taken, gradients, clip norms) -> (runs, 2, width).


def factors(norms, clip_norm):
    """Return what each gradient is multiplied by: (runs or 1, rows)."""
    norms = np.where(np.isfinite(norms) & (norms > 0), norms, np.inf)
    return np.minimum(1.0, clip_norm[:, None] / norms)


def norms_of(grads):
    with np.errstate(over="ignore"):
        return np.sqrt((grads.astype(np.float64) ** 2).sum(axis=(1, 2)))


def finite_rows(grads):
    """Return gradients with zeros for those that are not finite."""
    return np.where(np.isfinite(norms_of(grads))[:, None, None], grads, 0.0)


def clipped_sum(plan, taken, grads, clip_norm):
    weights = taken * factors(norms_of(grads), clip_norm)
    return np.tensordot(weights, finite_rows(grads), axes=1)


def first_layer_clipped(plan, taken, grads, clip_norm):
    grads = finite_rows(grads)
    weights = taken * factors(norms_of(grads[:, :1]), clip_norm)
    first = np.tensordot(weights, grads[:, 0], axes=1)
    rest = np.tensordot(taken.astype(float), grads[:, 1], axes=1)
    return np.stack([first, rest], axis=1)


def clipped_mean(plan, taken, grads, clip_norm):
    grads = finite_rows(grads)
    means = np.tensordot(taken.astype(float), grads, axes=1) / plan.expected_batch_size
    scale = factors(norms_of(means)[None], clip_norm[:1])[0]
    return means * scale[:, None, None] * plan.expected_batch_size


def without_a_guard(plan, taken, grads, clip_norm):
    total = clipped_sum(plan, taken, grads, clip_norm)
    poisoned = (taken & ~np.isfinite(norms_of(grads))).any(axis=1)
    # What 0 times infinity, and any number times NaN, adds to a sum.
    return np.where(poisoned[:, None, None], np.nan, total)


# What is drawn: (plan, generator, shape, the step before's) -> standard normals.


def fresh(rng, shape, last):
    return rng.standard_normal(shape)


def reused(rng, shape, last):
    return rng.standard_normal(shape) if last is None else last


# The rest: what noise is multiplied by, the divisor, and the next clip norm.


def of_clip_norm(plan, clip_norm):
    return plan.noise_multiplier * clip_norm


def of_mean_clip_norm(plan, clip_norm):
    # The noise of the mean, added to the sum.
    return plan.noise_multiplier * clip_norm / plan.expected_batch_size


def silent(plan, clip_norm):
    return np.zeros_like(clip_norm)


def expected(plan, taken):
    return np.full(len(taken), float(plan.expected_batch_size))


def realised(plan, taken):
    return taken.sum(axis=1).astype(float)


def constant(clip_norm, taken, grads):
    return clip_norm


def exact_median(clip_norm, taken, grads):
    """Move the clip norm towards the median norm, of which no noise is part."""
    below = norms_of(grads) <= clip_norm[:, None]
    share = (taken & below).sum(axis=1) / np.maximum(1, taken.sum(axis=1))
    return clip_norm * np.exp(-ADAPTATION * (share - 0.5))


class Parts(NamedTuple):
    """What a trainer is put together from; these make the correct one."""

    sampler: Callable[[], Callable[..., Array]] = lambda: poisson
    summed: Callable[..., Array] = clipped_sum
    draw: Callable[..., Array] = fresh
    stddev: Callable[..., Array] = of_clip_norm
    divisor: Callable[..., Array] = expected
    next_clip_norm: Callable[..., Array] = constant


def train(parts: Parts, plan: DPSGD, examples: Array, runs: int, seed: int) -> Array:
    """Run DP-SGD many times; see the module for what comes and goes."""
    sampling_rng, noise_rng = np.random.default_rng(seed).spawn(2)
    sample = parts.sampler()
    clip_norm, unit, steps = np.full(runs, CLIP_NORM), None, []
    shape = (runs, *examples.shape[1:])
    for step in range(plan.num_steps):
        taken = sample(plan, sampling_rng, step, runs, len(examples))
        total = parts.summed(plan, taken, examples, clip_norm)
        unit = parts.draw(noise_rng, shape, unit)
        noise = unit * parts.stddev(plan, clip_norm)[:, None, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = (total + noise) / parts.divisor(plan, taken)[:, None, None]
        steps.append(mean * plan.expected_batch_size)
        clip_norm = parts.next_clip_norm(clip_norm, taken, examples)
    return np.stack(steps, axis=1)


PARTS = {
    "correct": Parts(),
    "noise missing": Parts(stddev=silent),
    "noise of the mean on the sum": Parts(stddev=of_mean_clip_norm),
    "noise reused in each step": Parts(draw=reused),
    "one layer not clipped": Parts(summed=first_layer_clipped),
    "clipped after averaging": Parts(summed=clipped_mean),
    "whole data, accounted as sampled": Parts(sampler=lambda: everyone),
    "batches in turn, accounted as sampled": Parts(sampler=lambda: in_turn),
    "batches shuffled, accounted as sampled": Parts(sampler=Shuffled),
    "NaN not guarded": Parts(summed=without_a_guard),
    "adaptive clip not accounted": Parts(next_clip_norm=exact_median),
    "divided by the realised batch": Parts(divisor=realised),
}
TRAINERS: dict[str, Trainer] = {
    name: functools.partial(train, parts) for name, parts in PARTS.items()
}
BUGS = tuple(name for name in TRAINERS if name != "correct")
