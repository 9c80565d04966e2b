"""The norm of leaves together, and one factor for all of them."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpjax.clipping import norms
from dpjax.types import ArrayTree


class Group(NamedTuple):
    """Leaves that are clipped together.

    Attributes:
      leaf_norms: `(batch,)` each.
      norm: of all of them, `(batch,)`.
      error: how much of a clip norm is kept back for rounding: a gradient that is
        scaled to (1 - error) C has a norm of at most C.
    """

    leaf_norms: ArrayTree
    norm: jax.Array
    error: float

    @classmethod
    def of(cls, leaf_norms: ArrayTree, like: ArrayTree) -> "Group | None":
        """Return the group, or None where there are no leaves."""
        leaves, shapes = jax.tree.leaves(leaf_norms), jax.tree.leaves(like)
        if not leaves:
            return None
        stacked = jnp.stack(leaves)
        # The factor is rounded to the dtype in which each leaf is summed.
        dtypes = [jnp.finfo(norms.working_dtype(leaf.dtype)).dtype for leaf in shapes]
        lowest = min((*dtypes, stacked.dtype), key=lambda dtype: dtype.itemsize)
        num_elements = max(map(_num_reals, shapes))
        error = norms.relative_error(num_elements, len(leaves), lowest)
        return cls(leaf_norms, norms.euclidean_norm(stacked.T), error)

    def spread(self, factor: jax.Array) -> ArrayTree:
        """Return `factor`, `(batch,)`, for every leaf, in the dtype of its norms."""
        leaves = jax.tree.leaves(self.leaf_norms)
        # One array for all leaves of a dtype: engines compute with it only once.
        cast = {leaf.dtype: factor.astype(leaf.dtype) for leaf in leaves}
        return jax.tree.map(lambda leaf: cast[leaf.dtype], self.leaf_norms)


def norm_bound(leaf_norms: ArrayTree, like: ArrayTree) -> jax.Array:
    """Return what is at least the norms of gradients, without rounding: `(batch,)`.

    Args:
      leaf_norms: norms `(batch,)` of leaves, of which there are some, or bounds of
        them.
      like: one example's gradients.
    """
    group = Group.of(leaf_norms, like)
    assert group is not None
    return group.norm / (1 - group.error)


def _num_reals(leaf: Any) -> int:
    parts = 2 if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else 1
    return parts * math.prod(leaf.shape)
