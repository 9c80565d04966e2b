"""A small training run to put canaries into, and trainers that are Gaussian noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dpjax
from dpjax.auditing.audit import one_run_audit

NUM_EXAMPLES, NUM_FEATURES, WIDTH = 200, 60, 20


def data():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(NUM_EXAMPLES, NUM_FEATURES)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int32)


def params():
    rng = np.random.default_rng(6)
    hidden = 0.3 * rng.normal(size=(NUM_FEATURES, WIDTH))
    return {"hidden": jnp.asarray(hidden, jnp.float32), "out": jnp.zeros((WIDTH, 2))}


def loss(params, x, y):
    logits = jnp.tanh(x @ params["hidden"]) @ params["out"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def plan(**settings):
    usual = {
        "num_examples": NUM_EXAMPLES,
        "expected_batch_size": 100,
        "num_steps": 8,
        "l2_norm_clip": 1.0,
        "noise_multiplier": 1.0,
    }
    return dpjax.DPSGD(**(usual | settings))


def audit(canaries, *, mechanism=None, **options):
    usual = {"delta": 1e-5, "key": 0, "coin_seed": 0, "method": "dp"}
    return one_run_audit(
        mechanism or plan(),
        loss,
        params(),
        data(),
        optax.sgd(0.5),
        canaries=canaries,
        **(usual | options),
    )


def gaussian_trainer(noise_std):
    """Return a trainer of one step without sampling: clip to 1, add up, add noise."""

    def trainer(loss_fn, params, data, key):
        each = jax.jit(jax.vmap(jax.grad(loss_fn), (None, *[0] * len(data))))
        grads = each(params, *data)
        flat = jnp.concatenate(
            [leaf.reshape(len(data[0]), -1) for leaf in jax.tree.leaves(grads)], 1
        )
        norms = jnp.linalg.norm(flat, axis=1, keepdims=True)
        total = (flat / jnp.maximum(norms, 1)).sum(0)
        noised = total + noise_std * jax.random.normal(key, total.shape)
        _, restore = jax.flatten_util.ravel_pytree(params)
        return jax.tree.map(lambda a, b: a - b, params, restore(noised))

    return trainer
