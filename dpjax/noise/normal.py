"""From 64 random bits to one normal value."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy import special

# Minimax in relative error: sin(pi/2 t) / t in powers of t**2 on [0, 1], to 6e-9, and
# log(1 + x) / x in powers of x on [sqrt(1/2) - 1, sqrt(2) - 1], to 3e-8.
_SINE = (1.57079632, -0.645963711, 0.0796896790, -0.00467376661, 0.000151485129)
_LOGARITHM = (
    *(0.999999974, -0.499999880, 0.333341856, -0.250020740, 0.199568339),
    *(-0.165623937, 0.149522634, -0.143668383, 0.0872235939),
)
_ROOT_HALF_BITS = np.float32(np.sqrt(0.5)).view(np.uint32)
_LAST_QUARTER = np.uint32(3 << 30)


def box_muller(radius_bits: jax.Array, angle_bits: jax.Array) -> jax.Array:
    """Turn two words into one float32 normal value, by the method of Box and Muller.

    `sqrt(-2 log u) * sin(pi / 2 * v)`, where u in (0, 1) is the middle of one of 2**32
    cells, and v in (-1, 1) that of one of 2**32 cells. Symmetric to the last bit:
    flipping the last bit of `angle_bits` flips the sign. Logarithm and sine keep their
    relative precision where they are small: the value is the formula's to a relative
    5e-7, is never zero, and of absolute value between 5.5e-15
    and 6.77.

    Args:
      radius_bits: uint32 array of independent uniform words.
      angle_bits: uint32 array of the same shape, independent of the other.

    Returns:
      A float32 array of the same shape.

    References:
      Box and Muller 1958, "A note on the generation of random normal deviates".

    >>> float(box_muller(jnp.uint32(0), jnp.uint32(2**32 - 1)))
    6.763705730438232
    """
    radius = jnp.sqrt(np.float32(2) * _exponential(radius_bits))
    cell = lax.bitcast_convert_type(angle_bits >> np.uint32(1), jnp.int32)
    v = (cell.astype(jnp.float32) + np.float32(0.5)) * np.float32(2**-31)
    size = radius * (v * _polynomial(_SINE, v * v))
    sign = ~angle_bits << np.uint32(31)
    return lax.bitcast_convert_type(
        lax.bitcast_convert_type(size, jnp.uint32) | sign, jnp.float32
    )


def inverse_cdf(high: jax.Array, low: jax.Array) -> jax.Array:
    """Turn two words into one float64 normal value, by the inverse normal CDF.

    The last bit is the sign, the 63 others choose the middle of one of 2**63 cells of
    the lower half of the distribution. Symmetric, and never beyond 9.2.

    Args:
      high: uint32 array of independent uniform words.
      low: uint32 array of the same shape, independent of the other.

    Returns:
      A float64 array of the same shape; needs x64.
    """
    tail = (low >> np.uint32(1)).astype(jnp.float64) + 0.5
    lower = special.ndtri(high.astype(jnp.float64) * 2.0**-33 + tail * 2.0**-64)
    return jnp.where(low & np.uint32(1), -lower, lower)


def _exponential(bits: jax.Array) -> jax.Array:
    """Return `-log((bits + 1/2) / 2**32)` in float32, precise at both ends.

    `2 * bits + 1` is split into `2**exponent * (1 + x)`, 1 + x between the roots of 1/2
    and 2. In the last quarter, where float32 has no more room below 1, `x` is made of
    the distance to 1 instead.
    """
    odd = bits.astype(jnp.float32) * np.float32(2) + np.float32(1)
    pattern = lax.bitcast_convert_type(odd, jnp.uint32)
    exponent = (pattern - _ROOT_HALF_BITS) >> np.uint32(23)
    mantissa = lax.bitcast_convert_type(
        pattern - (exponent << np.uint32(23)), jnp.float32
    )
    halvings = np.float32(33) - lax.bitcast_convert_type(exponent, jnp.int32).astype(
        jnp.float32
    )
    to_one = ((~bits).astype(jnp.float32) + np.float32(0.5)) * np.float32(2**-32)
    near = bits >= _LAST_QUARTER
    x = jnp.where(near, -to_one, mantissa - np.float32(1))
    halvings = jnp.where(near, np.float32(0), halvings)
    return halvings * np.float32(np.log(2)) - x * _polynomial(_LOGARITHM, x)


def _polynomial(coefficients: Sequence[float], x: jax.Array) -> jax.Array:
    """Return the sum of `coefficients[i] * x**i`, by Horner's rule."""
    value: jax.Array | np.float32 = np.float32(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + np.float32(coefficient)
    return jnp.asarray(value)
