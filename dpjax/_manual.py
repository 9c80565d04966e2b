"""Inside of `shard_map`: values that differ from device to device.

Where the same value meets values that differ, its derivative is summed over devices.
An example's derivative is its own: whatever it is taken of must differ first.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.types import ArrayTree


def axes_of(tree: Any) -> frozenset[str]:
    """Return the mesh axes over which any of the arrays differ."""
    axes = [jax.typeof(leaf).mat.varying for leaf in jax.tree.leaves(tree)]
    return frozenset().union(*axes)


def shaped(kind: jax.core.ShapedArray, lead: int = 0) -> jax.ShapeDtypeStruct:
    """Return what stands for an array when a function of it is traced.

    Args:
      kind: the array's type.
      lead: how many leading axes the function does not see.
    """
    shape = kind.shape[lead:]
    if not kind.mat.varying:
        return jax.ShapeDtypeStruct(shape, kind.dtype)
    axes = jax.P(*kind.sharding.spec[lead:])
    sharding = jax.NamedSharding(kind.sharding.mesh, axes)
    return jax.ShapeDtypeStruct(
        shape, kind.dtype, sharding=sharding, manual_axis_type=kind.mat
    )


def zeros(like: Any, shape: Sequence[int], dtype: Any) -> jax.Array:
    """Return zeros for a loop to begin with, which may differ where `like` does."""
    return varying(jnp.zeros(shape, dtype), axes_of(like))


def varying(tree: ArrayTree, axes: frozenset[str]) -> ArrayTree:
    """Return the same arrays, as ones that may differ over `axes`."""

    def one(leaf: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - jax.typeof(leaf).mat.varying))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(one, tree)
