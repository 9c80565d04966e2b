"""Random views of one image, averaged before its gradient is clipped.

Several views of one example are still one example: their mean gradient is clipped as a
whole, so they cost no privacy (De et al. 2022, "Unlocking High-Accuracy Differentially
Private Image Classification through Scale", section 3, augmentation multiplicity).
"""

import jax
import jax.numpy as jnp


def views(
    key: jax.Array, image: jax.Array, count: int, *, shift: int = 2, flip: bool = False
) -> jax.Array:
    """Return random views of an image: shifted, and mirrored half of the time.

    Args:
        key: PRNG key.
        image: `(height, width, channels)`.
        count: Number of views.
        shift: Largest shift in pixels, along each axis; zeros come in.
        flip: Whether left and right may be swapped.

    Returns:
        Views, `(count, height, width, channels)`.
    """
    padded = jnp.pad(image, ((shift, shift), (shift, shift), (0, 0)))

    def view(key: jax.Array) -> jax.Array:
        shift_key, flip_key = jax.random.split(key)
        row, column = jax.random.randint(shift_key, (2,), 0, 2 * shift + 1)
        moved = jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)
        mirrored = flip & jax.random.bernoulli(flip_key)
        return jnp.where(mirrored, moved[:, ::-1], moved)

    return jax.vmap(view)(jax.random.split(key, count))
