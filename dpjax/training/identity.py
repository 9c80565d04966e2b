"""What a run is: compared, difference by difference, when it is resumed."""

import functools
from typing import Any

import jax
import numpy as np

from dpjax import _versions
from dpjax.mechanism import NonPrivate, relation_words
from dpjax.training import fingerprint
from dpjax.training.placement import Layout
from dpjax.training.request import Request
from dpjax.training.sources import Source

_PACKAGES = ("dpjax", "jax", "jaxlib", "optax", "flax", "numpy", "dp-accounting")


def public_identity(
    request: Request,
    source: Source,
    layout: Layout,
    found: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the object of config.json: nothing in it depends on the data's values.

    Args:
      request: what was asked for.
      source: the data.
      layout: where arrays are.
      found: how the microbatch size was found, or None where it was given.
    """
    return {
        "version": 1,
        "private": request.is_private,
        "delta": request.delta,
        "unit": request.unit,
        "mechanism": _mechanism(request),
        "settings": dict(request.settings),
        "training": {
            "max_epsilon": request.max_epsilon,
            "privacy_filter": shared_budget(request),
            "ema_decay": request.ema_decay,
            "log_every": request.logging.every,
            "evaluate_every": request.logging.evaluation_steps,
            **request.loss.clipping_options(),
            "memory": found,
        },
        "model": _model(request, source),
        "devices": layout.describe(),
        "versions": _versions.installed(_PACKAGES),
    }


def _mechanism(request: Request) -> dict[str, Any]:
    """Return what the mechanism says of itself, of the units that it protects."""
    mechanism = request.mechanism
    if isinstance(mechanism, NonPrivate):
        return mechanism.describe()
    words = relation_words(mechanism.neighboring_relation, request.unit)
    return mechanism.describe() | {"neighboring_relation": words}


def shared_budget(request: Request) -> dict[str, float] | None:
    """Return epsilon and delta of the budget that other runs share, if there is one."""
    shared = request.privacy_filter
    return None if shared is None else shared.budget._asdict()


def private_identity(
    request: Request, source: Source, key_words: jax.Array
) -> dict[str, Any]:
    """Return the object of private.json.

    Args:
      request: what was asked for.
      source: the data.
      key_words: uint32, `(2,)`.
    """
    return {
        "key": np.asarray(key_words).tolist(),
        "data": source.digest(key_words),
        "initial_parameters": fingerprint.tree_digest(request.params),
    }


def _model(request: Request, source: Source) -> dict[str, Any]:
    """Return the parameters' shapes, and hashes of the traced loss and optimizer."""
    params, optimizer, loss = request.params, request.optimizer, request.loss

    def update(params: Any) -> Any:
        return optimizer.update(params, optimizer.init(params), params)

    example = source.example
    if loss.keep_batch_dim:
        example = jax.tree.map(lambda leaf: np.asarray(leaf)[None], example)
    arguments = loss.arguments(example, functools.partial(jax.random.key, 0))
    leaves = fingerprint.host_leaves(params)
    return {
        "parameters": fingerprint.leaf_table(leaves),
        "num_parameters": sum(leaf.size for leaf in leaves.values()),
        "loss": fingerprint.program_digest(jax.grad(loss.function), params, *arguments),
        "optimizer": fingerprint.program_digest(update, params),
    }
