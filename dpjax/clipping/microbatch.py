"""Work through a batch in pieces, to save memory and change nothing else."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpjax import _manual
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

    Piece j has the examples j, j + pieces, j + 2 pieces, ...: where a batch is split
    over devices and every device can give as many to each piece, no example moves to
    another device. The last ones are copies of the first example, which are masked out.

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
    if padded_size > batch_size:
        index = jnp.arange(padded_size)
        real = index < batch_size
        index = jnp.where(real, index, 0)
        batch = jax.tree.map(lambda leaf: leaf[index], batch)
        mask = real if mask is None else real & mask[index]

    def split(leaf: jax.Array) -> jax.Array:
        shape = microbatch_size, num_pieces, *leaf.shape[1:]
        return leaf.reshape(shape).swapaxes(0, 1)

    def step(total: ArrayTree, piece: Any) -> tuple[ArrayTree, PerExample]:
        piece_sum, per_example = fn(*piece)
        return jax.tree.map(jnp.add, total, piece_sum), per_example

    pieces = jax.tree.map(split, (batch, mask))
    shapes, _ = jax.eval_shape(fn, *jax.tree.map(lambda leaf: leaf[0], pieces))
    zero = jax.tree.map(lambda x: _manual.zeros(x, x.shape, x.dtype), shapes)
    total, per_example = jax.lax.scan(step, zero, pieces)
    return total, jax.tree.map(
        lambda leaf: leaf.swapaxes(0, 1).reshape(padded_size, *leaf.shape[2:])[
            :batch_size
        ],
        per_example,
    )
