"""Norms of per-example gradients that neither overflow nor underflow.

A norm's whole error comes from scaling, from squaring, from a pairwise sum and from one
square root. That makes the error a number known before the program runs
(`relative_error`), and clipping subtracts it: what is returned as "clipped to C" has a
norm of at most C, not of C plus rounding (Higham 2002, section 4.2, bounds pairwise
summation by the depth of its tree).
"""

import functools
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
    return _tree_sum(terms, jnp.zeros(batch, values.dtype))


def _tree_sum(terms: list[jax.Array], zero: jax.Array) -> jax.Array:
    """Sum arrays as a balanced tree; `zero` where there are none."""
    while len(terms) > 1:
        odd = terms[len(terms) // 2 * 2 :]
        terms = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)] + odd
    return terms[0] if terms else zero


def euclidean_norm(values: jax.Array) -> jax.Array:
    """Return the L2 norm along the last axis; NaN or Inf where an entry is not finite.

    Args:
      values: real array of shape `(..., entries)`.

    Returns:
      Array of shape `(...)`, in the dtype of `values`.
    """
    *batch, length = values.shape
    if length > _FEW:
        largest = jnp.max(jnp.abs(values), axis=-1, initial=0)
        scale = _scale(largest)
        total = pairwise_sum(jnp.square(values / scale[..., None]))
    else:
        # One kernel, where each array operation would be one.
        terms = [values[..., i] for i in range(length)]
        zero = jnp.zeros(batch, values.dtype)
        largest = functools.reduce(jnp.maximum, map(jnp.abs, terms), zero)
        scale = _scale(largest)
        total = _tree_sum([jnp.square(term / scale) for term in terms], zero)
    norm = scale * jnp.sqrt(total)
    return jnp.where(jnp.isfinite(largest), norm, largest)


def _scale(largest: jax.Array) -> jax.Array:
    """Return what numbers are divided by, so that no square leaves their dtype."""
    info = jnp.finfo(largest.dtype)
    # Not above max / 8: XLA may multiply by the reciprocal, which must be normal.
    return jnp.clip(largest, info.tiny, info.max / 8)


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
