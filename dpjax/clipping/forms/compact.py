"""Arrays without axes of length one, for XLA to find what it has already.

Such an axis may stand anywhere in memory, and does: XLA takes two arrays that are one
to be different, and where a loop reads or writes the one, it copies the other first,
though not a number moves.
"""

import jax


def compact(value: jax.Array) -> jax.Array:
    """Return the same numbers without axes of length one."""
    return value.reshape([n for n in value.shape if n != 1])
