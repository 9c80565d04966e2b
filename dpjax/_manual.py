"""Inside of `shard_map`: values that differ from device to device.

Where the same value meets values that differ, its derivative is summed over devices.
An example's derivative is its own: whatever it is taken of must differ first.
"""

from typing import Any

import jax

from dpjax.types import ArrayTree


def axes_of(tree: Any) -> frozenset[str]:
    """Return the mesh axes over which any of the arrays differ."""
    axes = [jax.typeof(leaf).mat.varying for leaf in jax.tree.leaves(tree)]
    return frozenset().union(*axes)


def varying(tree: ArrayTree, axes: frozenset[str]) -> ArrayTree:
    """Return the same arrays, as ones that may differ over `axes`."""

    def one(leaf: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - jax.typeof(leaf).mat.varying))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(one, tree)
