"""Upper bounds of norms where squares overflow or vanish.

They are asked for only where that happened, by a branch of its own. That branch is
compiled into every step, so it does little: three sums an array, and the rest for all
arrays at once.
"""

import math

import jax
import jax.numpy as jnp

from dpjax.clipping.forms import measuring
from dpjax.clipping.forms.measuring import Term


def bounds(terms: list[list[Term]], like: jax.Array) -> jax.Array:
    """Return upper bounds of norms that neither overflow nor vanish with their squares.

    Args:
      terms: for each leaf the terms whose sum bounds the norms of its gradients.
      like: norms `(leaves, batch)`, for shape and dtype.

    Returns:
      `(leaves, batch)`; infinite for what is not finite, and for marks (see
      `tape.guard`).
    """
    sides = {id(side): side for leaf in terms for term in leaf for side in term.sides}
    if not sides:
        return jnp.zeros_like(like)
    rows = {side: row for row, side in enumerate(sides)}
    lengths = _lengths(list(sides.values()), like.dtype)
    # One more row, of ones, for what a term does not have.
    lengths = jnp.concatenate([lengths, jnp.ones_like(lengths[:1])])
    found = jnp.zeros_like(like)
    for i in range(max(map(len, terms))):
        parts = [leaf[i] if i < len(leaf) else Term(0.0, ()) for leaf in terms]
        product = jnp.asarray([part.stretch for part in parts], like.dtype)[:, None]
        for j in range(2):
            places = [
                rows[id(part.sides[j])] if j < len(part.sides) else len(rows)
                for part in parts
            ]
            product = product * lengths[jnp.asarray(places)]
        found = found + product
    limit = float(jnp.finfo(like.dtype).max) / 2
    return jnp.where(found < limit, found, jnp.inf)


def _lengths(sides: list[jax.Array], dtype: jnp.dtype) -> jax.Array:
    """Return the norms of arrays, or a little more: `(arrays, batch)`."""
    # Between them, the three scales cover all numbers.
    grow = 2.0 ** (jnp.finfo(dtype).maxexp // 2 + 8)
    tiny, eps = (float(getattr(jnp.finfo(dtype), name)) for name in ("tiny", "eps"))
    sides = [measuring.working(side) for side in sides]
    shrunk, usual, grown = (
        jnp.stack([_sum_of_squares(side, scale) for side in sides]).astype(dtype)
        for scale in (1 / grow, 1.0, grow)
    )
    sizes = [math.prod(side.shape[1:]) for side in sides]
    count = jnp.asarray(sizes, dtype)[:, None]
    large, small = ~jnp.isfinite(usual), usual <= count * (tiny / eps)
    lengths = jnp.sqrt(usual + count * tiny)
    lengths = jnp.where(large, jnp.sqrt(shrunk) * grow, lengths)
    # Here nothing is hidden but denormal numbers, which XLA takes for zero.
    lengths = jnp.where(small, jnp.sqrt(grown) / grow, lengths)
    return lengths * (1 + measuring.rounding(max(sizes), usual))


def _sum_of_squares(side: jax.Array, scale: float) -> jax.Array:
    """Return the sum of squares of all of an example, scaled: `(batch,)`."""
    parts = (side.real, side.imag) if jnp.iscomplexobj(side) else (side,)
    axes = tuple(range(1, side.ndim))
    total, *others = (jnp.sum(jnp.square(part * scale), axis=axes) for part in parts)
    return total + others[0] if others else total
