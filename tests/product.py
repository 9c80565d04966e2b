"""Every way in which the library can be put together to release an average.

A row names one value of each axis. `refusal` says which rows the library must refuse,
and `expressible` which are rows at all; the others release noise that is measured.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import optax
import samplers

from dpjax import optimizers, sampling
from dpjax.clipping import rules
from dpjax.mechanism import (
    DPSGD,
    SOUND_PAIRS,
    DPDiscreteSGD,
    DPIndividualSGD,
    DPMatrixFactorization,
    DPStagedSGD,
)
from dpjax.noise import correlated

MULTIPLIER, CLIP_NORM, DIVISOR, NUM_STEPS = 1.5, 8.0, 10, 4
ROWS, COLUMNS, BIASES = 16, 24, 128
NUM_VALUES = ROWS * COLUMNS + BIASES
BATCH_SIZE = 6
COUNT_NOISE = 4.0
"""Of the counts that sparse rows and adaptive clip norms release beside the average."""

SAMPLERS = samplers.SAMPLERS | {"truncated": sampling.TruncatedPoisson(15)}
BOUNDED = ("cyclic", "deterministic", "shuffled", "b-min-sep")
"""Samplers that bound at which steps an example takes part."""

STRATEGIES = {
    "identity": correlated.Identity(),
    "tree": correlated.BinaryTree(),
    "square root": correlated.square_root(2),
    "toeplitz": correlated.optimize_toeplitz(NUM_STEPS, 4),
    "banded": correlated.optimize_banded(NUM_STEPS, 2),
    "buffered": correlated.optimize_buffered_toeplitz(NUM_STEPS, 1),
    "banded inverse": correlated.banded_inverse_square_root(2),
}
AGGREGATES = ("privatize", "scale then privatize", "sparse rows")
RULES = {
    "norm": CLIP_NORM,
    "prefix tree": {"w": 6.0, "b": 5.0},
    "per layer": rules.PerLayer(CLIP_NORM),
    "automatic": rules.Automatic(CLIP_NORM),
    "per-sample adaptive": rules.PerSampleAdaptive(CLIP_NORM),
}
DTYPES = {
    "float32": jnp.float32,
    "bfloat16": jnp.bfloat16,
    "float16": jnp.float16,
    "float64": jnp.float64,
}
MECHANISMS = (
    *(("DP-SGD", sampler) for sampler in SAMPLERS),
    *(("adaptive", sampler) for sampler in SAMPLERS),
    *itertools.product(STRATEGIES, SAMPLERS),
    ("staged", "Poisson"),
    ("individual", "deterministic"),
    *(("discrete", sampler) for sampler in ("deterministic", "shuffled")),
    *(("aggregate", kind) for kind in AGGREGATES),
)
AXES = {
    "mechanism": MECHANISMS,
    "rule": tuple(RULES),
    "optimizer": (
        "plain",
        "sgd",
        "momentum",
        "adam",
        "adamw",
        "corrected adam",
        "ftrl",
        "sharpness aware",
    ),
    "dtype": tuple(DTYPES),
    "mesh": ("one device", "data parallel", "sharded"),
    "engine": ("auto", "bookkeeping", "vmap"),
    "microbatch_size": (None, 2),
    "padded": (False, True),
}
RELEASE_AXES = ("mechanism", "rule", "optimizer", "dtype", "mesh")
"""What the noise and all behind it depend on."""

GRADIENT_AXES = ("rule", "dtype", "mesh", "engine", "microbatch_size", "padded")
"""What the clipped sum depends on."""


def expressible(row):
    """Tell whether a row says something that can be written down at all."""
    kind, name = row["mechanism"]
    if kind in ("adaptive", "individual") and row["rule"] != "norm":
        return False  # They have rules of their own.
    if row["optimizer"] == "corrected adam" and kind in (*STRATEGIES, "discrete"):
        return False  # There is no one standard deviation that it could be given.
    # These are given gradients, or a loss, and no engine.
    per_example = kind == "aggregate" and name != "privatize"
    return not (per_example and row["microbatch_size"])


def refusal(row):
    """Return what the error of a refused row says; None where noise is released."""
    kind, name = row["mechanism"]
    if kind in STRATEGIES and name not in BOUNDED:
        return "at which steps an example takes part"
    if kind == "adaptive" and name == "with replacement":
        return "a static clip where an example may come twice"
    if kind == "adaptive" and row["optimizer"] == "corrected adam":
        return "a clip that stays"
    if kind == "staged" and row["optimizer"] == "corrected adam":
        return "noise that stays"
    if name == "scale then privatize" and row["engine"] == "bookkeeping":
        return "per-example gradients, or None with loss_fn="
    if name == "sparse rows" and row["engine"] != "vmap":
        return "per-example gradients"
    return None


def full(names=tuple(AXES), **fixed):
    """Yield the rows of a product of some axes, the others being fixed."""
    axes = [(fixed[name],) if name in fixed else AXES[name] for name in names]
    for values in itertools.product(*axes):
        yield dict(zip(names, values, strict=True))


def clip_of(row):
    """Return what clips: the axis `rule`, or the mechanism's own."""
    if row["mechanism"][0] == "adaptive":
        return optimizers.AdaptiveClip(
            initial_l2_norm_clip=CLIP_NORM, count_noise=COUNT_NOISE
        )
    return RULES[row["rule"]]


def mechanism(row):
    """Return the mechanism of a row; None where there is only an aggregate."""
    kind, name = row["mechanism"]
    if kind == "aggregate":
        return None
    plan = {
        "num_examples": 2 * DIVISOR,
        "expected_batch_size": DIVISOR,
        "num_steps": NUM_STEPS,
        "l2_norm_clip": clip_of(row),
        "noise_multiplier": MULTIPLIER,
        "sampler": SAMPLERS[name],
    }
    if kind in STRATEGIES:
        return DPMatrixFactorization(strategy=STRATEGIES[kind], **plan)
    if kind == "staged":
        return DPStagedSGD(final_noise_ratio=0.5, num_stages=2, **plan)
    if kind == "individual":
        return DPIndividualSGD(full_steps=1, **plan)
    return DPDiscreteSGD(**plan) if kind == "discrete" else DPSGD(**plan)


def make_optimizer(row, key):
    """Return the private optimizer of a row."""
    plan = mechanism(row)
    behind = inner(row["optimizer"], plan)
    if plan is not None:
        return plan.optimizer(behind, key)
    options = {"key": key, "expected_batch_size": DIVISOR}
    settings = clip_of(row), MULTIPLIER
    kind = row["mechanism"][1]
    if kind == "privatize":
        return optimizers.privatize(behind, *settings, **options)
    if kind == "scale then privatize":
        private = optimizers.scale_then_privatize(
            *settings, stability=1.0, decay=1.0, second_moment=ones(), **options
        )
    else:
        private = optimizers.sparse_row_aggregate(
            *settings,
            tables=lambda path: "w" in path,
            threshold=-1e6,
            count_noise=COUNT_NOISE,
            **options,
        )
    return optax.chain(private, behind)


def inner(name, plan):
    """Return the plain optimizer behind the noise; `inverses` takes them off again."""
    if name == "corrected adam":
        stddev = 1.0 if plan is None else plan.noise_stddev
        return optimizers.corrected_adam(1e3, stddev, floor=1e6)
    return {
        "plain": optax.scale(1.0),
        "sgd": optax.sgd(0.5),
        "momentum": optax.sgd(0.5, momentum=0.9),
        "adam": optax.adam(1e3, eps=1e3),
        "adamw": optax.adamw(1e3, eps=1e3, weight_decay=1e-4),
        "ftrl": optimizers.ftrl(0.5, momentum=0.9),
        "sharpness aware": optimizers.sharpness_aware(optax.sgd(0.5), radius=0.25),
    }[name]


def events(plan):
    """Return a plan's events, one for each relation under which it has an account."""
    if isinstance(plan, DPDiscreteSGD):
        return [plan.event()]  # It has one relation.
    relations = [word for kind, word in SOUND_PAIRS if kind is type(plan.sampler)]
    plans = [dataclasses.replace(plan, relation=relation) for relation in relations]
    return [plan.event() for plan in plans]


def ones():
    return {"w": jnp.ones((ROWS, COLUMNS)), "b": jnp.ones(BIASES)}


def params(dtype):
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf, dtype), ones())


def loss_fn(params, x):
    """Return a loss whose gradient is (outer(x.a, x.g), x.c), whatever `params`."""
    hidden = x["a"] @ params["w"]
    return jnp.vdot(hidden, x["g"]) + jnp.vdot(params["b"], x["c"])
