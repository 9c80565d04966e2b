"""Squared norms of what a batch left behind, and upper bounds of them.

Squares are taken as they are. Those that overflow are left to `extremes`; those too
small for their dtype are allowed for in the bounds. Every array operation is a kernel
to compile, so a form does only what it must, and all leaves are finished together.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.clipping import norms

HIGHEST = jax.lax.Precision.HIGHEST

_SHORT = 32
"""Numbers that are too few to be summed apart."""


class Squares(NamedTuple):
    """Squared L2 norms of a batch of gradients, about to be added up.

    In exact arithmetic, with sums over parts, they are at most

        sum value + relative sum left right + hidden sum (left + right) + absolute

    Attributes:
      value: parts `(batch, parts)` of the squares, as they come out in floating point;
        infinite or NaN where they overflow. `None` where left times right is the value.
      left: parts of what rounding errors are relative to, `(batch, parts)`; `None`
        where that is the value itself.
      right: the other factor, unless it is one.
      relative: errors by rounding.
      hidden: what squares too small for their dtype can hide in either factor.
      absolute: and what they can hide in all.
    """

    value: jax.Array | None
    left: jax.Array | None
    right: jax.Array | None
    relative: float
    hidden: float
    absolute: float


def added_up(leaves: Sequence[Squares]) -> tuple[jax.Array, jax.Array]:
    """Return squared norms, `(batch,)`, and upper bounds of each leaf's.

    Leaves of the same shapes are stacked before their parts are added up.

    Returns:
      The squared norms of all leaves together, as they come out in floating point, and
      upper bounds of every leaf's: `(leaves, batch)`.
    """
    kinds: dict[object, list[int]] = {}
    for i, leaf in enumerate(leaves):
        arrays = (leaf.value, leaf.left, leaf.right)
        kind = tuple(None if array is None else array.shape for array in arrays)
        kinds.setdefault(kind, []).append(i)
    found = [_of_a_kind([leaves[i] for i in places]) for places in kinds.values()]
    order = [i for places in kinds.values() for i in places]
    where = np.argsort(order)
    total: Any = sum(norms.pairwise_sum(values.T) for values, _ in found)
    bounds = jnp.concatenate([bounds for _, bounds in found])
    return total, bounds[where] if len(kinds) > 1 else bounds


def _of_a_kind(leaves: list[Squares]) -> tuple[jax.Array, jax.Array]:
    """Return squared norms and bounds, `(leaves, batch)`, of leaves of one shape."""

    def stacked(name: str) -> jax.Array | None:
        arrays = [getattr(leaf, name) for leaf in leaves]
        return None if arrays[0] is None else jnp.stack(arrays)

    value, left, right = map(stacked, ("value", "left", "right"))
    products = left
    if left is not None and right is not None:
        # No product is negative. But to multiply and then to add up, with nothing
        # between, takes XLA's library for CPUs several times as long.
        products = jnp.maximum(left * right, 0)
    scale = None if products is None else jnp.sum(products, axis=-1)
    found = scale if value is None else jnp.maximum(jnp.sum(value, axis=-1), 0)
    assert found is not None

    def column(name: str) -> jax.Array:
        return jnp.asarray([[getattr(leaf, name)] for leaf in leaves], found.dtype)

    bound = found + column("relative") * (found if scale is None else scale)
    for side in (left, right):
        if side is not None:
            bound = bound + column("hidden") * jnp.sum(side, axis=-1)
    return found, bound + column("absolute")


class Term(NamedTuple):
    """A bound of gradients' norms: a number times the product of its sides' norms.

    Attributes:
      stretch: the number.
      sides: arrays with a leading axis `(batch,)`.
    """

    stretch: float
    sides: tuple[jax.Array, ...]


def working(value: jax.Array) -> jax.Array:
    """Return `value` in the dtype in which it is measured and summed."""
    return value.astype(norms.working_dtype(value.dtype))


def weighted(value: jax.Array, weights: jax.Array) -> jax.Array:
    """Scale each example's rows; a weight of zero gives zero, whatever is there."""
    rows = weights.reshape(value.shape[0], *[1] * (value.ndim - 1))
    return times(value, rows)


def times(value: jax.Array, weights: jax.Array) -> jax.Array:
    """Return a product that is 0 where the weight is, and finite where both are.

    A weight above 1 can make it overflow, and then 0 times it would be NaN. That takes
    an example whose squares overflow or vanish: weights of those allow for the sizes of
    all products (see `extremes`), so that less of some adds no more.
    """
    value = working(value)
    info = jnp.finfo(value.dtype)
    product = value * weights.astype(info.dtype)
    if not jnp.iscomplexobj(value):
        product = jnp.clip(product, info.min, info.max)
    return jnp.where(weights != 0, product, 0)


def of_elements(parts: jax.Array, size: int) -> Squares:
    """Measure gradients that are written out: their rounding is all.

    Args:
      parts: parts of their squared norms `(batch, parts)`.
      size: how many numbers one of them has.
    """
    count = parts.shape[1]
    error = rounding(count + math.ceil(size / max(1, count)), parts)
    return Squares(parts, None, None, 2 * error, 0.0, size * _tiny(parts))


def of_products(
    value: jax.Array | None, left: jax.Array, right: jax.Array, length: int
) -> Squares:
    """Measure sums of outer products.

    The rounding of inner products is independent, so it adds up as squares do, to a
    multiple of the sum over t of |left_t|^2 |right_t|^2 (the probabilistic model of
    Higham and Mary 2019). Where products cancel, that is larger than the norm.

    Args:
      value: parts of their squared norms `(batch, parts)`, rounded; `None` where there
        is but one product, or one for each of several groups.
      left: squared norms of the left sides, `(batch, groups, positions)`.
      right: those of the right sides.
      length: how many numbers went into each part.
    """
    batch, groups, positions = left.shape
    # What squares below the smallest number of the dtype can hide.
    count, tiny = groups * positions, length * _tiny(left)
    chain = 2 * rounding(length + count, left)
    left, right = (side.reshape(batch, count) for side in (left, right))
    lost = positions + chain
    absolute = lost * count * (tiny**2 + _tiny(left))
    return Squares(value, left, right, chain, lost * tiny, absolute)


def rounding(length: int, like: jax.Array) -> float:
    """Return the relative rounding to allow for in the norm of `length` numbers."""
    return (8 + math.sqrt(length) / 2) * float(jnp.finfo(like.dtype).eps) / 2


def _tiny(like: jax.Array) -> float:
    return float(jnp.finfo(like.dtype).tiny)


def sum_of_squares(value: jax.Array) -> jax.Array:
    """Return the sum of squares along the last axis."""
    lead = value.shape[:-1]
    # Without axes of length one, XLA finds the array that it has already.
    short = [n for n in lead if n != 1]
    value = working(value).reshape(*short, value.shape[-1])
    parts = (value.real, value.imag) if jnp.iscomplexobj(value) else (value,)
    total, *others = (jnp.sum(jnp.square(part), axis=-1) for part in parts)
    return (total + others[0] if others else total).reshape(lead)


def squares_in_parts(value: jax.Array) -> jax.Array:
    """Return parts of each example's sum of squares, `(batch, parts)`.

    Short sums round less than a single long one.
    """
    # Without axes of length one, XLA finds the array that it has already.
    *lead, last = [n for n in value.shape[1:] if n != 1] or [1]
    while lead and last < _SHORT:
        last *= lead.pop()
    parts = sum_of_squares(value.reshape(value.shape[0], *lead, last))
    return parts.reshape(value.shape[0], math.prod(lead))
