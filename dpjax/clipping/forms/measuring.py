"""Norms of what a batch left behind, and upper bounds of them.

Norms are roots of squares as they are, which overflow or vanish for numbers beyond the
root of what the dtype holds. `longest` scales first; it is asked for only where that
happened.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpjax.clipping import norms

Axes = int | tuple[int, ...]


class Norm(NamedTuple):
    """L2 norms of a batch of gradients; infinite or NaN where squares overflow.

    Attributes:
      value: the norms `(batch,)`, as they come out in floating point.
      bound: at least the norms in exact arithmetic `(batch,)`: what is clipped.
    """

    value: jax.Array
    bound: jax.Array


def working(value: jax.Array) -> jax.Array:
    """Return `value` in the dtype in which it is measured and summed."""
    return value.astype(norms.working_dtype(value.dtype))


def weighted(value: jax.Array, weights: jax.Array) -> jax.Array:
    """Scale each example's rows; a weight of zero gives zero, whatever is there."""
    value = working(value)
    rows = weights.reshape(value.shape[0], *[1] * (value.ndim - 1))
    rows = rows.astype(jnp.finfo(value.dtype).dtype)
    return jnp.where(rows != 0, value * rows, 0)


def norm(value: jax.Array, axes: Axes) -> jax.Array:
    """Return the L2 norm along axes."""
    return jnp.sqrt(sum_of_squares(value, axes))


def longest(value: jax.Array, axes: Axes) -> jax.Array:
    """Return the L2 norm along axes, where squares overflow or vanish too.

    Infinite for what is not finite, and for marks (see `tape.guard`).
    """
    value = working(value)
    largest = jnp.max(jnp.abs(value), axis=axes, keepdims=True, initial=0)
    scale = norms.power_of_two_below(largest)
    found = norm(value / scale, axes)
    found = found * scale.reshape(found.shape)
    limit = float(jnp.finfo(found.dtype).max) / 2
    return jnp.where(found < limit, found, jnp.inf)


def of_elements(value: jax.Array, axes: tuple[int, ...]) -> Norm:
    """Return norms of gradients that are written out: their rounding is all."""
    found = norm(value, axes)
    shape = [value.shape[axis] for axis in axes]
    hidden = math.sqrt(math.prod(shape) * _tiny(found))
    return Norm(found, found * (1 + rounding(sum(shape), found)) + hidden)


def of_products(
    squared: jax.Array | None, left: jax.Array, right: jax.Array, length: int
) -> Norm:
    """Return norms of sums of outer products.

    The rounding of inner products is independent, so it adds up as squares do, to a
    multiple of the sum over t of |left_t|^2 |right_t|^2 (the probabilistic model of
    Higham and Mary 2019). Where products cancel, that is larger than the norm.

    Args:
      squared: their squared norms `(batch,)`, rounded; `None` where each group has only
        one product.
      left: norms of the left sides, `(batch, groups, positions)`.
      right: those of the right sides.
      length: how many numbers went into each term of `squared`.
    """
    # What squares below the smallest number of the dtype can hide.
    hidden = math.sqrt(length * _tiny(left))
    value, most = left * right, (left + hidden) * (right + hidden)
    chain = rounding(length, left)
    if squared is None and value.shape[1:] == (1, 1):
        return Norm(value[:, 0, 0], most[:, 0, 0] * (1 + chain))
    diagonal = jnp.sum(jnp.square(value), axis=(1, 2))
    largest = jnp.sum(jnp.square(most), axis=(1, 2))
    squared = diagonal if squared is None else jnp.maximum(squared, 0)
    lost = value.shape[2] * jnp.maximum(largest - diagonal, 0)
    return Norm(jnp.sqrt(squared), jnp.sqrt(squared + largest * chain + lost))


def rounding(length: int, like: jax.Array) -> float:
    """Return the relative rounding to allow for a sum over `length` products."""
    return (8 + math.sqrt(length) / 2) * float(jnp.finfo(like.dtype).eps) / 2


def _tiny(like: jax.Array) -> float:
    return float(jnp.finfo(like.dtype).tiny)


def sum_of_squares(value: jax.Array, axes: Axes) -> jax.Array:
    """Return the sum of squares along axes."""
    value, shape = working(value), value.shape
    summed = {
        axis % value.ndim for axis in ((axes,) if isinstance(axes, int) else axes)
    }
    kept = [axis for axis in range(value.ndim) if axis not in summed]
    # Without axes of length one, XLA finds the array that it has already.
    slim = {axis for axis, length in enumerate(value.shape) if length != 1}
    value = value.reshape([value.shape[axis] for axis in sorted(slim)])
    last_first = [sorted(slim).index(axis) for axis in sorted(summed & slim)][::-1]
    parts = (value.real, value.imag) if jnp.iscomplexobj(value) else (value,)
    squares: Any = sum(jnp.square(part) for part in parts)
    return summed_in_turn(squares, last_first).reshape([shape[axis] for axis in kept])


def summed_in_turn(value: jax.Array, axes: Sequence[int]) -> jax.Array:
    """Sum one axis after the other, each counted after the sums before it.

    Short sums round less than a long one, into which XLA would merge them.
    """
    for i, axis in enumerate(axes):
        value = jax.lax.optimization_barrier(value) if i else value
        value = jnp.sum(value, axis=axis)
    return value
