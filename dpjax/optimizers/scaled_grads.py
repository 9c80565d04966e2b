"""Clipped sums of gradients that were scaled, coordinate by coordinate, before."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpjax import clipping
from dpjax.types import ArrayTree, LossFn, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScaledGrads:
    """A clipped sum of gradients times the scale that an optimizer's state holds.

    `a + b` adds those of disjoint examples, as with `ClippedGrads`.

    Attributes:
      grads: the clipped sum, in scaled units, without the raw quantities of examples.
    """

    grads: clipping.ClippedGrads

    def __add__(self, other: "ScaledGrads") -> "ScaledGrads":
        """Add the sums of disjoint examples, scaled alike."""
        return ScaledGrads(self.grads + other.grads)


def clipped_scaled_grad(
    loss_fn: LossFn,
    l2_norm_clip: Any,
    *,
    prng_argnum: int | None = None,
    **options: Any,
) -> Callable[..., clipping.ClippedGrads]:
    """Return the clipped sum of gradients times a scale, by a change of variables.

    With w = params + s u, the gradient in u, at 0, is s times that in w.

    Args:
      loss_fn: `loss_fn(params, *example)` of one example.
      l2_norm_clip: of scaled gradients.
      prng_argnum: as options, of `clipping.clipped_grad`.
      options: all but `batch_argnums`.

    Returns:
      `fn(params, scale, *batch, mask=None) -> ClippedGrads`, scale shaped like params.
    """
    key_place = None if prng_argnum is None else prng_argnum + 2

    def fn(
        params: Params, scale: ArrayTree, *batch: Any, mask: Any = None
    ) -> clipping.ClippedGrads:
        places = [n for n in range(3, 3 + len(batch)) if n != key_place]
        gradient = clipping.clipped_grad(
            _in_scaled_variables(loss_fn),
            l2_norm_clip,
            batch_argnums=places,
            prng_argnum=key_place,
            **options,
        )
        origin = jax.tree.map(jnp.zeros_like, params)
        return gradient(origin, params, scale, *batch, mask=mask)

    return fn


def _in_scaled_variables(loss_fn: LossFn) -> Callable[..., Any]:
    def loss(u: ArrayTree, params: Params, scale: ArrayTree, *example: Any) -> Any:
        moved = jax.tree.map(
            lambda w, s, x: w + (s * x).astype(w.dtype), params, scale, u
        )
        return loss_fn(moved, *example)

    return loss
