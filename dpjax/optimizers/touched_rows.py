"""Which rows of tables the gradients of a batch are in, and how many examples."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpjax import _check
from dpjax.types import ArrayTree

Tables = Callable[[str], bool]
"""Tells by a leaf's path, such as "['embed']['table']", whether it is a table."""


class RowCounts(NamedTuple):
    """Noisy counts of rows: a tree of its own name, so that its noise is its own.

    Attributes:
      rows_touched: by table, in the order of leaves, (rows,) each.
    """

    rows_touched: list[jax.Array]


def named(pattern: str) -> Tables:
    """Return the tables whose path has what a regular expression finds."""
    compiled = re.compile(pattern)
    return lambda path: compiled.search(path) is not None


def tables_of(tree: ArrayTree, tables: Tables) -> list[Any]:
    """Return the leaves that are tables, in the order of leaves.

    Raises:
      ValueError: there is none, or one has no rows.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    found = [leaf for path, leaf in leaves if tables(_check.path_name(path))]
    if not found or any(jnp.ndim(leaf) == 0 for leaf in found):
        _check.fail("at least one table, and rows in each", "tables", tables)
    return found


def touched(grads: ArrayTree, tables: Tables) -> tuple[list[jax.Array], jax.Array]:
    """Return, for each table, the rows (rows,) in which ONE gradient is not zero.

    And whether the whole gradient is finite: one that is not counts nowhere.
    """
    rows = [
        jnp.any(leaf != 0, axis=tuple(range(1, leaf.ndim)))
        for leaf in tables_of(grads, tables)
    ]
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(grads)]
    return rows, jnp.all(jnp.stack(finite))


def row_counts(
    rows: list[jax.Array], finite: jax.Array, mask: jax.Array | None, clip: float
) -> RowCounts:
    """Return the sums over examples of the rows that each touches, clipped.

    Args:
      rows: booleans (batch, rows) for each table.
      finite: booleans (batch,).
      mask: booleans (batch,), or None.
      clip: L2 norm to which the rows of one example, over all tables, are clipped.
    """
    keep = finite if mask is None else finite & mask
    number = sum(jnp.sum(table, axis=1, dtype=jnp.float32) for table in rows)
    # A root rounded to nearest and a quotient: one part in 2^22 is kept in hand.
    bound = clip * (1 - 2.0**-22)
    root = jnp.sqrt(jnp.maximum(number, 1.0))
    factor = jnp.where(keep, jnp.minimum(1.0, bound / root), 0.0)
    return RowCounts(
        [
            jnp.einsum(
                "b,br->r", factor, table.astype(jnp.float32), precision="highest"
            )
            for table in rows
        ]
    )


def on_rows(
    tree: ArrayTree, rows: list[jax.Array], tables: Tables, *, axis: int
) -> ArrayTree:
    """Return the tree with zeros in the rows of tables that are not chosen.

    Args:
      tree: pytree of arrays.
      rows: booleans (rows,) for each table.
      tables: which leaves have them.
      axis: which axis of a table is its rows.
    """
    left = iter(rows)

    def kept(path: Any, leaf: jax.Array) -> jax.Array:
        if not tables(_check.path_name(path)):
            return leaf
        shape = (1,) * axis + (-1,) + (1,) * (leaf.ndim - axis - 1)
        return jnp.where(next(left).reshape(shape), leaf, jnp.zeros_like(leaf))

    return jax.tree_util.tree_map_with_path(kept, tree)
