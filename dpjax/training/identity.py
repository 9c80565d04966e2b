"""What a run is: compared, difference by difference, when it is resumed."""

import functools
from typing import Any

import jax
import numpy as np

from dpjax import _versions
from dpjax.training import fingerprint
from dpjax.training.request import Request
from dpjax.training.step import rows
from dpjax.types import ArrayTree

_PACKAGES = ("dpjax", "jax", "jaxlib", "optax", "flax", "numpy", "dp-accounting")

Batch = tuple[ArrayTree, ...]


def public_identity(request: Request, batch: Batch) -> dict[str, Any]:
    """Return the object of config.json: nothing in it depends on the data's values.

    Args:
      request: what was asked for.
      batch: the data, a tuple of pytrees of NumPy arrays.
    """
    return {
        "version": 1,
        "private": request.is_private,
        "delta": request.delta,
        "mechanism": request.mechanism.describe(),
        "settings": dict(request.settings),
        "training": {
            "max_epsilon": request.max_epsilon,
            "ema_decay": request.ema_decay,
            "log_every": request.logging.every,
            "evaluate_every": request.logging.evaluation_steps,
            **request.loss.clipping_options(),
        },
        "model": _model(request, batch),
        "versions": _versions.installed(_PACKAGES),
    }


def private_identity(
    request: Request, batch: Batch, key_words: jax.Array
) -> dict[str, Any]:
    """Return the object of private.json.

    Args:
      request: what was asked for.
      batch: the data, a tuple of pytrees of NumPy arrays.
      key_words: uint32, `(2,)`.
    """
    return {
        "key": np.asarray(key_words).tolist(),
        "data": fingerprint.data_digest(batch, key_words),
        "initial_parameters": fingerprint.tree_digest(request.params),
    }


def _model(request: Request, batch: Batch) -> dict[str, Any]:
    """Return the parameters' shapes, and hashes of the traced loss and optimizer."""
    params, optimizer, loss = request.params, request.optimizer, request.loss

    def update(params: Any) -> Any:
        return optimizer.update(params, optimizer.init(params), params)

    example = rows(batch, np.zeros(1, np.int32) if loss.keep_batch_dim else 0)
    arguments = loss.arguments(example, functools.partial(jax.random.key, 0))
    leaves = fingerprint.host_leaves(params)
    return {
        "parameters": fingerprint.leaf_table(leaves),
        "num_parameters": sum(leaf.size for leaf in leaves.values()),
        "loss": fingerprint.program_digest(loss.function, params, *arguments),
        "optimizer": fingerprint.program_digest(update, params),
    }
