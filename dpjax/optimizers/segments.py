"""Counters of what was run, that survive inside a compiled program.

A segment is a pair of settings (noise multiplier, sampling probability) with the number
of steps taken under them. Settings are kept as the two words of a float64, since JAX
computes in float32 by default and a rounded setting is another mechanism. A float
epsilon is never accumulated: it is a function of these counters, computed on the host.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

CAPACITY = 32
"""Rows of the table. Further settings are merged into the last row, pessimistically."""


class Segments(NamedTuple):
    """A table of settings and the steps that were taken under each.

    Attributes:
      settings: uint32 `(CAPACITY, 4)`; a row holds noise multiplier and sampling
        probability, two words each, high word first.
      steps: uint32 `(CAPACITY,)`; rows with zero steps are free.
    """

    settings: jax.Array
    steps: jax.Array


class Segment(NamedTuple):
    """One row of the table, as the host reads it."""

    noise_multiplier: float
    sampling_prob: float
    steps: int


def empty() -> Segments:
    """Return a table in which nothing has been counted."""
    settings = jnp.zeros((CAPACITY, 4), jnp.uint32)
    return Segments(settings, jnp.zeros(CAPACITY, jnp.uint32))


def settings_words(
    noise_multiplier: float | jax.Array, sampling_prob: float | jax.Array
) -> jax.Array:
    """Return uint32 words `(4,)` of a pair of settings.

    A traced setting cannot be checked. What is out of range is read pessimistically: a
    noise multiplier that is NaN or subnormal as 0, a negative one as its opposite (the
    same noise), a sampling probability outside (0, 1] as 1.
    """
    if isinstance(noise_multiplier, jax.Array):
        noise_multiplier = jnp.abs(_floating(noise_multiplier))
        usable = noise_multiplier >= jnp.finfo(noise_multiplier.dtype).tiny
        noise_multiplier = jnp.where(usable, noise_multiplier, 0)
    if isinstance(sampling_prob, jax.Array):
        sampling_prob = _floating(sampling_prob)
        usable = sampling_prob >= jnp.finfo(sampling_prob.dtype).tiny
        sampling_prob = jnp.where(usable & (sampling_prob <= 1), sampling_prob, 1)
    return jnp.concatenate([_words(noise_multiplier), _words(sampling_prob)])


def count_step(segments: Segments, words: jax.Array) -> Segments:
    """Count one step under the settings `words`.

    When the table is full, the last row stands for the least noise and the largest
    sampling probability of all that was merged into it: an upper bound for all.
    """
    segments = Segments(*map(jnp.asarray, segments))
    same = jnp.all(segments.settings == words[None], axis=1) & (segments.steps > 0)
    num_used = jnp.sum(segments.steps > 0)
    full = ~jnp.any(same) & (num_used == CAPACITY)
    row = jnp.where(jnp.any(same), jnp.argmax(same), num_used)
    row = jnp.minimum(row, CAPACITY - 1)
    worst = _least_private(segments.settings[CAPACITY - 1], words)
    settings = segments.settings.at[row].set(jnp.where(full, worst, words))
    return Segments(settings, segments.steps.at[row].add(jnp.uint32(1)))


def read(segments: Segments) -> list[Segment]:
    """Return the rows in use, settings as the float64 numbers that they were."""
    words, steps = np.asarray(segments.settings), np.asarray(segments.steps)
    values = words.astype(np.uint64)
    bits = (values[:, 0::2] << np.uint64(32)) | values[:, 1::2]
    numbers = bits.view(np.float64)
    return [
        Segment(float(numbers[row, 0]), float(numbers[row, 1]), int(steps[row]))
        for row in np.flatnonzero(steps)
    ]


def _least_private(a: jax.Array, b: jax.Array) -> jax.Array:
    noise = jnp.where(_below(a[:2], b[:2]), a[:2], b[:2])
    sampling = jnp.where(_below(a[2:], b[2:]), b[2:], a[2:])
    return jnp.concatenate([noise, sampling])


def _below(a: jax.Array, b: jax.Array) -> jax.Array:
    return (a[0] < b[0]) | ((a[0] == b[0]) & (a[1] < b[1]))


def _words(value: float | jax.Array) -> jax.Array:
    """Return the words of a float64, or of a float32 widened: 0, normal or infinite."""
    if not isinstance(value, jax.Array):
        high, low = np.array([value], ">f8").view(">u4")
        return jnp.array([high, low], jnp.uint32)
    if value.dtype == jnp.float64:
        low_high = jax.lax.bitcast_convert_type(value, jnp.uint32)
        return low_high[::-1]
    bits = jax.lax.bitcast_convert_type(value, jnp.uint32)
    exponent, mantissa = bits >> 23, bits & 0x7FFFFF
    rebased = jnp.where(exponent == 0xFF, 0x7FF, exponent + (1023 - 127))
    high, low = (rebased << 20) | (mantissa >> 3), (mantissa & 7) << 29
    return jnp.where(bits == 0, 0, jnp.stack([high, low])).astype(jnp.uint32)


def _floating(value: jax.Array) -> jax.Array:
    wide = value.dtype == jnp.float64
    return value if wide else value.astype(jnp.float32)
