"""Work through a batch in pieces, to save memory and change nothing else."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.clipping.result import PerExample
from dpjax.types import ArrayTree

Summed = tuple[ArrayTree, PerExample]


def in_microbatches(
    fn: Callable[[Any, jax.Array | None], Summed],
    batch: ArrayTree,
    mask: jax.Array | None,
    microbatch_size: int | None,
) -> Summed:
    """Apply `fn(batch, mask)` to pieces of a batch and add up the sums.

    The last piece is padded with copies of the first example, which are masked out.

    Args:
      fn: returns a sum and the per-example quantities of a batch.
      batch: pytree of arrays with a leading axis `(batch,)`.
      mask: booleans `(batch,)` or `None`.
      microbatch_size: examples a piece; `None` takes the batch whole.

    Returns:
      What `fn(batch, mask)` returns, up to the order of the sum.
    """
    batch_size = jax.tree.leaves(batch)[0].shape[0]
    if microbatch_size is None or batch_size <= microbatch_size:
        return fn(batch, mask)
    num_pieces = -(-batch_size // microbatch_size)
    padded_size = num_pieces * microbatch_size
    index = jnp.arange(padded_size)
    real = index < batch_size
    index = jnp.where(real, index, 0)

    def split(leaf: jax.Array) -> jax.Array:
        return leaf[index].reshape(num_pieces, microbatch_size, *leaf.shape[1:])

    whole = padded_size == batch_size and mask is None
    masks = None if whole else split_mask(real, mask, index, num_pieces)

    def step(total: ArrayTree, piece: Any) -> tuple[ArrayTree, PerExample]:
        piece_sum, per_example = fn(*piece)
        return jax.tree.map(jnp.add, total, piece_sum), per_example

    pieces = (jax.tree.map(split, batch), masks)
    shapes, _ = jax.eval_shape(fn, *jax.tree.map(lambda leaf: leaf[0], pieces))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, per_example = jax.lax.scan(step, zero, pieces)
    return total, jax.tree.map(
        lambda leaf: leaf.reshape(padded_size, *leaf.shape[2:])[:batch_size],
        per_example,
    )


def split_mask(
    real: jax.Array, mask: jax.Array | None, index: jax.Array, num_pieces: int
) -> jax.Array:
    """Return the masks of the pieces: real examples that the caller did not mask."""
    keep = real if mask is None else real & mask[index]
    return keep.reshape(num_pieces, -1)
