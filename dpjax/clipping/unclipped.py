"""The ordinary gradient in the same form, for the same loop without privacy."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.clipping import norms
from dpjax.clipping.result import PerExample
from dpjax.types import ArrayTree, Params

SENSITIVITY = math.inf
"""One example can move an unclipped sum by any amount."""


def plain_sum(
    example_loss: Any,
    params: Params,
    batch: tuple[ArrayTree, Any],
    mask: jax.Array | None,
) -> tuple[ArrayTree, PerExample]:
    """Return the gradient sum of a batch, not clipped, at the cost of one gradient."""
    examples, keys = batch

    def total_loss(params: Params) -> Any:
        loss, aux = jax.vmap(example_loss, in_axes=(None, 0, 0))(params, examples, keys)
        kept = loss if mask is None else jnp.where(mask, loss, 0)
        return kept.astype(norms.working_dtype(loss.dtype)).sum(), (loss, aux)

    grads, (loss, aux) = jax.grad(total_loss, has_aux=True)(params)
    grads = jax.tree.map(lambda g: g.astype(norms.working_dtype(g.dtype)), grads)
    return grads, PerExample(loss, None, aux)
