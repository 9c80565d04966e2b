"""The last few rows of noise, kept in a ring: row r is in slot r mod size."""

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.noise.correlated.strategy import weighted
from dpjax.types import ArrayTree


def past(coefficients: jax.Array, step: jax.Array, ring: ArrayTree) -> ArrayTree:
    """Return the sum over i of coefficients[i] times row step - 1 - i.

    Args:
      coefficients: (size,), of the last row first.
      step: the row to come, uint32.
      ring: leaves (size, ...); rows before row 0 are zeros.
    """
    size = coefficients.shape[0]
    slots = np.arange(size, dtype=np.uint32)
    lags = (step + np.uint32(size - 1) - slots) % np.uint32(size)
    return weighted(coefficients[lags], ring)


def pushed(row: ArrayTree, step: jax.Array, ring: ArrayTree) -> ArrayTree:
    """Return the ring with row `step` in it, in place of the oldest."""

    def put(leaf: jax.Array, value: jax.Array) -> jax.Array:
        return leaf.at[step % np.uint32(leaf.shape[0])].set(value)

    return jax.tree.map(put, ring, row)


def minus_past(
    row: ArrayTree, coefficients: jax.Array, step: jax.Array, ring: ArrayTree
) -> ArrayTree:
    """Return a row less what `past` makes of the rows before."""
    if not coefficients.shape[0]:
        return row
    return jax.tree.map(jnp.subtract, row, past(coefficients, step, ring))
