"""Clip, then sum: the two lines that every per-example engine ends with."""

import jax
import jax.numpy as jnp

from dpjax.clipping import norms, rules
from dpjax.types import ArrayTree


def clip_and_sum(
    per_example: ArrayTree, rule: rules.ClippingRule, mask: jax.Array | None = None
) -> tuple[ArrayTree, jax.Array, jax.Array]:
    """Clip each example's gradient and add them up.

    Guarantee: one example moves the sum by at most `rule.sensitivity` (add or remove),
    whatever it holds: a gradient with a NaN or an Inf counts as zero, and is zeroed
    before it is weighted, since 0 * NaN is NaN.

    Args:
      per_example: pytree of gradients, leaves `(batch, ...)`.
      rule: the clipping rule.
      mask: `(batch,)` booleans; `False` marks padding, which contributes zero.

    Returns:
      The clipped sum (leaves without the batch axis, float32 at least), the norms of
      the whole unclipped gradients `(batch,)`, and bounds of those `(batch,)`.
    """
    leaf_norms = norms.leaf_norms(per_example)
    grad_norm = norms.euclidean_norm(jnp.stack(jax.tree.leaves(leaf_norms), axis=-1))
    rows = [_finite_rows(leaf) for leaf in jax.tree.leaves(per_example)]
    finite = jnp.all(jnp.stack(rows), axis=0)
    keep = finite if mask is None else finite & mask
    like = _one_example(per_example)
    factors = rule.factors(leaf_norms, like)
    total = jax.tree.map(
        lambda leaf, factor: _weighted_sum(leaf, factor, keep), per_example, factors
    )
    return total, grad_norm, rules.norm_bound(leaf_norms, like)


def _finite_rows(leaf: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim)))


def _one_example(per_example: ArrayTree) -> ArrayTree:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), per_example
    )


def _weighted_sum(leaf: jax.Array, factor: jax.Array, keep: jax.Array) -> jax.Array:
    leaf = leaf.astype(norms.working_dtype(leaf.dtype))
    rows = keep.reshape(-1, *[1] * (leaf.ndim - 1))
    weights = jnp.where(keep, factor, 0).astype(leaf.dtype)
    return jnp.einsum(
        "b,b...->...", weights, jnp.where(rows, leaf, 0), precision="highest"
    )
