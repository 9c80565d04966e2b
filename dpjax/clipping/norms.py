"""Norms of per-example gradients that neither overflow nor underflow.

A norm's whole error comes from scaling, from squaring, from a pairwise sum and from one
square root. That makes the error a number known before the program runs
(`relative_error`), and clipping subtracts it: what is returned as "clipped to C" has a
norm of at most C, not of C plus rounding (Higham 2002, section 4.2, bounds pairwise
summation by the depth of its tree).
"""

import math

import jax
import jax.numpy as jnp

from dpjax.types import ArrayTree

_FEW = 64
"""Numbers that are added up one by one."""


def working_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """Return the dtype in which a leaf is clipped and summed: float32 at least."""
    return jnp.promote_types(dtype, jnp.float32)


def pairwise_sum(values: jax.Array) -> jax.Array:
    """Sum the last axis as a balanced tree: the error grows with its depth only."""
    *batch, length = values.shape
    while length > _FEW:
        short = -length % 4
        length = (length + short) // 4
        padded = jnp.pad(values, [(0, 0)] * len(batch) + [(0, short)])
        parts = padded.reshape(*batch, 4, length)
        values = (parts[..., 0, :] + parts[..., 1, :]) + (
            parts[..., 2, :] + parts[..., 3, :]
        )
    # One kernel, where each level of the tree would be one.
    terms = [values[..., i] for i in range(length)]
    while len(terms) > 1:
        odd = terms[len(terms) // 2 * 2 :]
        terms = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)] + odd
    return terms[0] if terms else jnp.zeros(batch, values.dtype)


def euclidean_norm(values: jax.Array) -> jax.Array:
    """Return the L2 norm along the last axis; NaN or Inf where an entry is not finite.

    Args:
      values: real array of shape `(..., entries)`.

    Returns:
      Array of shape `(...)`, in the dtype of `values`.
    """
    largest = jnp.max(jnp.abs(values), axis=-1, initial=0)
    info = jnp.finfo(values.dtype)
    # Not above max / 8: XLA may multiply by the reciprocal, which must be normal.
    scale = jnp.clip(largest, info.tiny, info.max / 8)
    norm = scale * jnp.sqrt(pairwise_sum(jnp.square(values / scale[..., None])))
    return jnp.where(jnp.isfinite(largest), norm, largest)


def leaf_norms(per_example: ArrayTree) -> ArrayTree:
    """Return every leaf's norm for every example.

    Args:
      per_example: pytree of floating-point or complex arrays `(batch, ...)`.

    Returns:
      The same pytree with leaves of shape `(batch,)`, float32 or float64.
    """

    def norm(leaf: jax.Array) -> jax.Array:
        shape = (leaf.shape[0], math.prod(leaf.shape[1:]))
        flat = leaf.astype(working_dtype(leaf.dtype)).reshape(shape)
        if jnp.iscomplexobj(flat):
            flat = jnp.concatenate([flat.real, flat.imag], axis=1)
        return euclidean_norm(flat)

    return jax.tree.map(norm, per_example)


def relative_error(num_elements: int, num_leaves: int, dtype: jnp.dtype) -> float:
    """Bound the relative error by which a clipped gradient's norm may exceed its bound.

    With unit roundoff u and a tree of depth d a pairwise sum of squares is right to
    (1 + d) u, its root to (1 + d) u / 2 + u, and scaling there and back, maybe by
    reciprocals, adds 3 u. That happens twice (elements of a leaf, leaves of a group);
    bound, quotient and product add 3 u, and one u is kept in hand.
    """
    roundoff = float(jnp.finfo(dtype).eps) / 2
    depth = _tree_depth(num_elements) + _tree_depth(num_leaves)
    return (depth / 2 + 13) * roundoff


def _tree_depth(count: int) -> int:
    return 2 * math.ceil(math.log2(max(count, 1)) / 2)
