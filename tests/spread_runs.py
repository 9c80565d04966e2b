"""Runs of fit that a layout of devices may not change; a script for eight devices.

Run as a script it takes names of kinds of placement and of cases, and answers as JSON:
how far each run on eight devices is from the run on one; whether what may not differ is
the same; and on how many devices the parameters are.
"""

import dataclasses
import json
import os
import sys

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpjax import mechanism, optimizers, sampling, training
from dpjax.noise import correlated
from dpjax.training import fingerprint
from dpjax.training.placement import Placement

RNG = np.random.default_rng(3)
X = RNG.normal(size=(90, 6)).astype(np.float32)
Y = RNG.integers(0, 4, 90).astype(np.int32)
SHAPES = {"in": (6, 1024), "bias": (1024,), "out": (1024, 4), "scale": ()}
"""One leaf beyond what shares a loop of noise, one at it, and two small ones."""

DPSGD = mechanism.DPSGD(
    num_examples=90,
    expected_batch_size=30,
    num_steps=5,
    l2_norm_clip=0.8,
    noise_multiplier=0.7,
)
CORRELATED = mechanism.DPMatrixFactorization(
    num_examples=90,
    expected_batch_size=30,
    num_steps=5,
    l2_norm_clip=0.8,
    noise_multiplier=0.7,
    strategy=correlated.square_root(3),
    sampler=sampling.ShuffledEpochs(),
)
PLAIN = mechanism.NonPrivate(num_examples=90, expected_batch_size=30, num_steps=5)
ADAPTIVE = optimizers.AdaptiveClip(initial_l2_norm_clip=0.8)
SPARSE = optimizers.SparseRowClip(l2_norm_clip=0.8, tables="'in'", threshold=3.0)
KINDS = {
    "whole": Placement(),
    "split": Placement(shard_params=True),
    "split to the smallest": Placement(shard_params=True, smallest_split=1),
}


def params(dtype=jnp.float32):
    random = np.random.default_rng(5)
    return {
        name: jnp.asarray(random.normal(size=shape) / 8, dtype)
        for name, shape in SHAPES.items()
    }


def loss(params, x, y):
    """Return the loss of one example."""
    hidden = jnp.tanh(x @ params["in"] + params["bias"])
    logits = (1 + params["scale"]) * (hidden @ params["out"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def random_loss(params, x, y, key):
    """Return the loss of one example with some of its features left out."""
    return loss(params, x * jax.random.bernoulli(key, 0.7, x.shape), y)


def case(mechanism_=DPSGD, optimizer=None, dtype=jnp.float32, loss=loss, **options):
    changes = {
        name: options.pop(name)
        for name in list(options)
        if name in {field.name for field in dataclasses.fields(mechanism_)}
    }
    return {
        "mechanism": dataclasses.replace(mechanism_, **changes),
        "optimizer": optimizer or optax.adam(0.02),
        "dtype": dtype,
        "loss_fn": loss,
        "options": options,
    }


CASES = {
    "dpsgd": case(),
    "pieces": case(engine="vmap", microbatch_size=2, optimizer=optax.sgd(0.1, 0.9)),
    "chunks, random loss": case(
        loss=random_loss, prng_argnum=3, static_batch_size=7, ema_decay=0.9
    ),
    "clip norm that adapts": case(l2_norm_clip=ADAPTIVE, engine="vmap"),
    "sparse rows": case(
        l2_norm_clip=SPARSE, microbatch_size=2, optimizer=optax.sgd(0.1)
    ),
    "correlated": case(CORRELATED, optax.sgd(0.1, 0.9), ema_decay=0.9),
    "no privacy": case(PLAIN, optax.adamw(0.02), microbatch_size=3),
    "bfloat16": case(dtype=jnp.bfloat16, ema_decay=0.5),
    "pure noise": case(expected_batch_size=1e-9, optimizer=optax.sgd(1e-9)),
}


def run(name, placement=None, data=(X, Y), **changes):
    """Run one case; `changes` go to `fit`."""
    chosen = CASES[name]
    options = {
        "key": 11,
        "delta": 1e-5,
        "logging": training.Logging(every=2, progress=False),
        "evaluate": lambda params: {"norm": optax.tree.norm(params)},
        "placement": placement,
    }
    return training.fit(
        chosen["mechanism"],
        chosen["loss_fn"],
        params(chosen["dtype"]),
        data,
        chosen["optimizer"],
        **(options | chosen["options"] | changes),
    )


def one_device():
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    return Placement(mesh)


def exact(result):
    """Return what may not differ at all: what was spent, and the sizes of batches."""
    sizes = [line["not_private"]["batch_size"] for line in result.history]
    spent = [line["epsilon"] for line in result.history]
    return [sizes, spent, result.summary["sha256"]["ledger"], result.status]


def numbers(result, arrays=None):
    """Return arrays by name: parameters, average, optimizer, metrics.

    Args:
      result: a `FitResult`.
      arrays: its parameters, average and state, where they have been gathered.
    """
    lines = [
        [line["not_private"]["train_loss"] or 0.0, line["public"].get("norm", 0.0)]
        for line in result.history
    ]
    arrays = arrays or (result.params, result.average, result.opt_state)
    return fingerprint.host_leaves((arrays, np.array(lines)))


def error(expected, found):
    """Return the largest difference, relative to the largest value of a leaf."""
    assert expected.keys() == found.keys()
    worst = 0.0
    for name, array in expected.items():
        wanted, got = array.astype(float), np.asarray(found[name]).astype(float)
        scale = max(np.abs(wanted).max(initial=0.0), 1e-30)
        worst = max(worst, np.abs(wanted - got).max(initial=0.0) / scale)
    return worst


def main(kinds, names):
    """Print the errors of the named cases with the named kinds of placement."""
    found = {}
    for name in names:
        one = run(name, one_device())
        for kind in kinds:
            many = run(name, KINDS[kind])
            found[f"{name}: {kind}"] = [
                error(numbers(one), numbers(many)),
                exact(one) == exact(many),
                len(jax.tree.leaves(many.params)[0].sharding.device_set),
            ]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
