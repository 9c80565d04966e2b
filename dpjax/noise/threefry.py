"""The cipher behind the noise: threefry2x32 with 20 rounds, and what it counts.

A block turns a key and a 64-bit counter into 64 bits, in plain arithmetic on arrays of
uint32: it fuses into the loop that uses the bits, and is split over a mesh as any other
elementwise operation is. `jax.random.bits` is the same cipher as a loop over rounds,
which on a CPU passes over memory once a round and takes five times as long.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check

Words = tuple[jax.Array, jax.Array]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def threefry2x32(key: Words, counter: Words) -> Words:
    """Encrypt counters with threefry2x32, 20 rounds.

    Args:
      key: The two words of the key: uint32, of shapes that broadcast to the counter's.
      counter: The two words of the counter: uint32 arrays of one shape.

    Returns:
      The two words of the block: uint32 arrays of the counter's shape. For one key, two
      counters never give the same block.

    References:
      Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.

    >>> zero = jnp.uint32(0)
    >>> [hex(word) for word in threefry2x32((zero, zero), (zero, zero))]
    ['0x6b200159', '0x99ba4efe']
    """
    schedule = (*key, key[0] ^ key[1] ^ _PARITY)
    left, right = counter[0] + schedule[0], counter[1] + schedule[1]
    for i in range(5):
        for distance in _ROTATIONS[i % 2]:
            left = left + right
            right = left ^ _rotated(right, distance)
        left = left + schedule[(i + 1) % 3]
        right = right + schedule[(i + 2) % 3] + np.uint32(i + 1)
    return left, right


def countable(shape: tuple[int, ...]) -> bool:
    """Tell whether 32 bits can index the axes that go into the high word, too.

    >>> countable((2**32, 2**32)), countable((2**33,))
    (True, False)
    """
    return math.prod(shape[: _first_low_axis(shape)]) <= 2**32


def counters(coordinates: Sequence[jax.Array], shape: tuple[int, ...]) -> Words:
    """Return the 64-bit counters of the values at some coordinates of an array.

    The low word is the flat index over as many trailing axes as 32 bits can count, the
    high word that over the other axes. Up to 2**32 values, the counter is therefore the
    flat index, and the same for every shape of one size.

    Args:
      coordinates: For each axis the index along it: uint32 arrays of one shape.
      shape: The shape of the array.

    Returns:
      The words (high, low): different for different coordinates.

    Raises:
      ValueError: `shape` is not countable.
    """
    if not countable(shape):
        _check.fail("leading axes that 32 bits can index", "shape", shape)
    first = _first_low_axis(shape)
    zero = jnp.zeros(np.shape(coordinates[0]) if shape else (), jnp.uint32)
    return (
        _flat_index(coordinates[:first], shape[:first], zero),
        _flat_index(coordinates[first:], shape[first:], zero),
    )


def _first_low_axis(shape: tuple[int, ...]) -> int:
    """Return the first of the trailing axes that 32 bits can index."""
    return next(a for a in range(len(shape) + 1) if math.prod(shape[a:]) <= 2**32)


def _flat_index(
    coordinates: Sequence[jax.Array], shape: tuple[int, ...], zero: jax.Array
) -> jax.Array:
    """Return the row-major index over some axes, by Horner's rule."""
    index = zero
    for coordinate, size in zip(coordinates, shape, strict=True):
        index = index * np.uint32(size % 2**32) + coordinate
    return index


def _rotated(word: jax.Array, distance: int) -> jax.Array:
    """Return `word` rotated to the left by some bits, in (0, 32)."""
    return (word << np.uint32(distance)) | (word >> np.uint32(32 - distance))
