"""Shifted inputs side by side: what the kernel of a convolution meets."""

from typing import Protocol

import jax
import jax.numpy as jnp

from dpjax import _manual
from dpjax.clipping.forms.compact import compact
from dpjax.clipping.forms.window import Window


class Patches(Protocol):
    """One of the two ways below."""

    def __call__(self, window: Window, padded: jax.Array) -> jax.Array:
        """Return patches `(batch, images, *output, offsets * inputs)`.

        Args:
          window: the geometry.
          padded: `(batch, images, *spatial, inputs)`.
        """


def at_once(window: Window, padded: jax.Array) -> jax.Array:
    """Return patches by a concatenation, which GPUs do in one pass."""
    shifted = [window.shifted(padded, offset, 2) for offset in window.offsets]
    return jnp.concatenate(shifted, axis=-1)


def in_turn(window: Window, padded: jax.Array) -> jax.Array:
    """Return patches by a loop, which on CPUs copies once, and is quick to compile."""
    if len(window.offsets) == 1:
        return at_once(window, padded)
    batch, images, *_, inputs = padded.shape
    shape = (batch, images, *window.output, len(window.offsets), inputs)
    source = compact(padded)

    def add(patches: jax.Array, one: tuple[jax.Array, jax.Array]) -> tuple:
        place, offset = one
        part = window.shifted_by(source.reshape(padded.shape), offset, 2)
        patches = jax.lax.dynamic_update_slice_in_dim(
            patches.reshape(shape), part[..., None, :], place, len(shape) - 2
        )
        return compact(patches), None

    zeros = compact(_manual.zeros(padded, shape, padded.dtype))
    places = (jnp.arange(len(window.offsets)), jnp.asarray(window.offsets))
    patches, _ = jax.lax.scan(add, zeros, places)
    return patches.reshape(*shape[:-2], len(window.offsets) * inputs)
