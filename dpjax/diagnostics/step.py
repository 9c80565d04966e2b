"""What a step's clipped gradients say for free."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from dpjax import _check
from dpjax.clipping import ClippedGrads, arguments
from dpjax.curvature import vectors
from dpjax.curvature.readings import Reading
from dpjax.curvature.sources import Source, raw_event


def fraction_clipped(grads: Source, *, mask: jax.Array | None = None) -> Reading:
    """Return the fraction of examples whose gradient was longer than the clip norm.

    Free: norms are in the step's `ClippedGrads`. Near 0, the noise is larger than it
    need be; near 1, every example is scaled, and `clipping_bias` says what that does.

    Where groups of leaves have clip norms of their own, those examples are counted that
    exceed what all groups together may have: a lower bound.

    Args:
      grads: `Public(grads)` or `Private(grads)`: a `ClippedGrads`, and where its batch
        is from.
      mask: booleans `(batch,)`, `False` for padding, as given to `clipped_grad`.

    Returns:
      A `Reading`: the fraction of the examples with a finite gradient (NaN where there
      is none), and the event.

    Raises:
      TypeError: not a `ClippedGrads` in a `Public` or `Private`.
      ValueError: the per-example norms were dropped; a mask of the wrong shape.

    >>> from dpjax import clipped_grad
    >>> from dpjax.curvature import Public
    >>> x = jnp.array([[3.0, 4.0], [0.0, 0.5]])
    >>> grads = clipped_grad(jnp.vdot, 1.0)(jnp.zeros(2), x)
    >>> fraction_clipped(Public(grads)).value
    Array(0.5, dtype=float32)
    """
    clipped, event = unwrapped(grads), raw_event(grads)
    norm, kept = kept_norms(clipped, mask)
    over = kept & (norm > clipped.sensitivity)
    return Reading(jnp.sum(over) / jnp.sum(kept), event)


def signal_to_noise(grads: Source, noise_multiplier: float | jax.Array) -> Reading:
    """Return how long a step's clipped gradient is, measured by its noise.

    That is ‖d‖ / (s sqrt(n)), with d the clipped mean gradient and s the noise standard
    deviation of each of its n entries. The divisor cancels. Free: no further pass.

    Below 1, a step is more noise than signal, which need not stop training: noise
    averages over steps, and only the part along the curvature does harm (`step_gain`).

    Args:
      grads: `Public(grads)` or `Private(grads)`: a `ClippedGrads` before the noise.
      noise_multiplier: noise standard deviation over the sensitivity, >= 0; with 0 the
        ratio is infinite.

    Returns:
      A `Reading`: the ratio, and the event.

    Raises:
      TypeError: not a `ClippedGrads` in a `Public` or `Private`.
      ValueError: a noise multiplier below 0.

    >>> from dpjax import clipped_grad
    >>> from dpjax.curvature import Public
    >>> grads = clipped_grad(jnp.vdot, 1.0)(jnp.zeros(4), jnp.eye(4))
    >>> ratio = signal_to_noise(Public(grads), 2.0)
    >>> round(float(ratio.value), 3)  # the sum is (1, 1, 1, 1), with noise 2 in each
    0.5
    """
    clipped, event = unwrapped(grads), raw_event(grads)
    if not _check.is_traced(noise_multiplier):
        noise_multiplier = _check.non_negative("noise_multiplier", noise_multiplier)
    stddev = jnp.asarray(noise_multiplier * clipped.sensitivity)
    size = sum(leaf.size for leaf in jax.tree.leaves(clipped.sum))
    return Reading(length(clipped.sum) / (stddev * math.sqrt(size)), event)


def unwrapped(grads: Source) -> ClippedGrads:
    """Return the clipped gradients that a source holds."""
    raw_event(grads)
    return checked(grads.batch)


def checked(grads: Any) -> ClippedGrads:
    """Return clipped gradients that have a sensitivity.

    Raises:
      TypeError: it is no `ClippedGrads`.
    """
    if not isinstance(grads, ClippedGrads):
        kind = type(grads).__name__
        _check.fail("a ClippedGrads", "type(grads)", kind, TypeError)
    return grads


def kept_norms(
    grads: ClippedGrads, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Return the norms `(batch,)`, and which examples are real and finite."""
    if grads.per_example is None or grads.per_example.grad_norm is None:
        what = "grads with the norms of examples, as clipped_grad returns them"
        _check.fail(what, "grads.per_example", grads.per_example)
    norm = grads.per_example.grad_norm
    mask = arguments.as_mask(mask, len(norm))
    if (mask is None) != (grads.batch_size is not None):
        _check.fail("the mask that the gradients were clipped with", "mask", mask)
    finite = jnp.isfinite(norm)
    return norm, finite if mask is None else finite & mask


def length(tree: Any) -> jax.Array:
    """Return the Euclidean length of a pytree, without overflow."""
    scaled, unit = vectors.split(tree)
    return unit * jnp.sqrt(vectors.dot(scaled, scaled))
