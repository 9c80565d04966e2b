"""Keep a cotangent that is not finite from poisoning what it is multiplied with.

A product over the batch gives NaN as soon as one factor is not finite, even at weight
zero. Backward passes therefore write down finite numbers only: whatever is not finite
becomes the largest number of its dtype, by which it is known again.
"""

import math

import jax
import jax.numpy as jnp


@jax.custom_vjp
def guarded(value: jax.Array) -> jax.Array:
    """Return `value`; cotangents that come back through it are finite."""
    return value


def _forward(value: jax.Array) -> tuple[jax.Array, None]:
    return value, None


def _backward(_: None, cotangent: jax.Array) -> tuple[jax.Array]:
    return (finite(cotangent),)


guarded.defvjp(_forward, _backward)


def finite(value: jax.Array) -> jax.Array:
    """Return `value` with the largest number in the place of what is not finite."""
    return jnp.where(jnp.isfinite(value), value, jnp.finfo(value.dtype).max)


def is_marked(value: jax.Array) -> jax.Array:
    """Tell which elements were not finite."""
    return value == jnp.finfo(value.dtype).max


def has_mark(value: jax.Array) -> jax.Array:
    """Tell which examples, along the first axis, have marks.

    The largest number tells, since marks are as large and nothing is NaN: on CPUs that
    is a call of a library, where comparing each number would be a pass to compile.
    """
    flat = value.reshape(value.shape[0], math.prod(value.shape[1:]))
    return is_marked(jnp.max(flat, axis=1, initial=-jnp.inf))


def widened(value: jax.Array) -> jax.Array:
    """Return `value` in float32 at least, with the marks of that dtype.

    The largest float16 is an ordinary float32: a mark that is only cast is lost.
    """
    dtype = jnp.promote_types(value.dtype, jnp.float32)
    if dtype == value.dtype:
        return value
    return jnp.where(is_marked(value), jnp.finfo(dtype).max, value.astype(dtype))


def unmarked(value: jax.Array) -> jax.Array:
    """Return `value` with NaN where `finite` found something not finite."""
    return jnp.where(is_marked(value), jnp.nan, value)
