"""Upper bounds of norms where squares overflow or vanish.

They are asked for only where that happened, by a branch of its own. That branch is
compiled into every step, so it does little: reductions of each array, which XLA's
library for CPUs has, and the rest for all arrays at once. Since x_i^2 <= |x_i| max |x|,

    |x|^2 <= max |x| sum |x|

which needs no square. For normal numbers the root of that is 1.6 times the norm, and
for n numbers of any kind at most n^(1/4) / sqrt(2) + 1 times. Sizes that add up to more
than their dtype holds make it infinite: such an example counts nothing.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dpjax.clipping import norms
from dpjax.clipping.forms import measuring
from dpjax.clipping.forms.measuring import Term

_SHORT = 64
"""Numbers that are reduced in one kernel: too few for a library."""


def bounds(terms: list[list[Term]], like: jax.Array) -> jax.Array:
    """Return upper bounds of norms that neither overflow nor vanish with their squares.

    Args:
      terms: for each leaf the terms whose sum bounds the norms of its gradients.
      like: norms `(leaves, batch)`, for shape and dtype.

    Returns:
      `(leaves, batch)`; infinite for what is not finite, for marks (see `tape.guard`),
      and for what comes near the largest number of its dtype.
    """
    sides = {id(side): side for leaf in terms for term in leaf for side in term.sides}
    if not sides:
        return jnp.zeros_like(like)
    rows, lengths = _lengths(sides, like)
    found = jnp.zeros_like(like)
    for i in range(max(map(len, terms))):
        parts = [leaf[i] if i < len(leaf) else Term(0.0, ()) for leaf in terms]
        product = jnp.asarray([part.stretch for part in parts], like.dtype)[:, None]
        for j in range(2):
            places = [
                rows[id(part.sides[j])] if j < len(part.sides) else len(sides)
                for part in parts
            ]
            product = product * lengths[jnp.asarray(places)]
        found = found + product
    return jnp.where(found < _limit(like.dtype), found, jnp.inf)


def _lengths(
    sides: dict[int, jax.Array], like: jax.Array
) -> tuple[dict[int, int], jax.Array]:
    """Return upper bounds of the norms of arrays, and which row is whose.

    Args:
      sides: the arrays by a name.
      like: for shape and dtype.

    Returns:
      The row of each name, and `(arrays + 1, batch)`: the last row holds ones, for what
      a term does not have.
    """
    kinds: dict[jnp.dtype, list[int]] = {}
    for name, side in sides.items():
        kinds.setdefault(norms.working_dtype(side.dtype), []).append(name)
    # Each dtype apart: it has its own largest number, and its own rounding.
    found = [_of_a_dtype([sides[i] for i in names]) for names in kinds.values()]
    order = [name for names in kinds.values() for name in names]
    ones = jnp.ones_like(like[:1])
    lengths = jnp.concatenate([*(part.astype(like.dtype) for part in found), ones])
    return {name: row for row, name in enumerate(order)}, lengths


def _of_a_dtype(sides: list[jax.Array]) -> jax.Array:
    """Return upper bounds of the norms of arrays of one dtype: `(arrays, batch)`."""
    flat = [_of_examples(side) for side in sides]
    reduced = jnp.stack([x for values in flat for x in _reduced(values)])
    above, below, total = reduced.reshape(len(flat), 3, -1).swapaxes(0, 1)
    largest = jnp.maximum(above, -below)
    size = max(values.shape[1] for values in flat)
    # Numbers that are added up one by one may all be rounded in the same direction.
    lost = (size + 16) * float(jnp.finfo(total.dtype).eps) / 2
    length = jnp.sqrt(largest) * jnp.sqrt(total) * math.exp(lost / 2)
    return jnp.where(largest < _limit(largest.dtype), length, jnp.inf)


def _reduced(values: jax.Array) -> Sequence[jax.Array]:
    """Return max x, min x and sum |x| along the last axis.

    Where an x is NaN, the sum is: XLA's library for CPUs overlooks it in the others.
    """
    sizes = jnp.abs(values)
    if values.shape[1] > _SHORT:
        # Each of them is a call of XLA's library for CPUs, with nothing to compile.
        return values.max(axis=1), values.min(axis=1), sizes.sum(axis=1)
    operations = (jax.lax.max, jax.lax.min, jax.lax.add)
    starts = (float(-jnp.inf), float(jnp.inf), 0.0)

    def all_three(x: Sequence[jax.Array], y: Sequence[jax.Array]) -> list[jax.Array]:
        return [merge(*pair) for merge, *pair in zip(operations, x, y, strict=True)]

    zero = jnp.zeros((), values.dtype)
    return jax.lax.reduce(
        (values, values, sizes), tuple(zero + s for s in starts), all_three, (1,)
    )


def _limit(dtype: jnp.dtype) -> float:
    """Return a number that marks are above."""
    return float(jnp.finfo(dtype).max) / 2


def _of_examples(side: jax.Array) -> jax.Array:
    """Return all real numbers of each example, and a 0 where there is none."""
    flat = measuring.working(side).reshape(len(side), math.prod(side.shape[1:]))
    if jnp.iscomplexobj(flat):
        flat = jnp.concatenate([flat.real, flat.imag], axis=1)
    return flat if flat.shape[1] else jnp.zeros((len(flat), 1), flat.dtype)
