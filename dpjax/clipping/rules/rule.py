"""What a clipping rule promises."""

from typing import Any, Protocol, runtime_checkable

import jax

from dpjax import _check
from dpjax.clipping import norms
from dpjax.types import ArrayTree


@runtime_checkable
class ClippingRule(Protocol):
    """What every rule offers; an implementation is also a registered pytree."""

    @property
    def sensitivity(self) -> float | jax.Array:
        """L2 sensitivity of the clipped sum when one example is added or removed."""

    def factors(self, leaf_norms: ArrayTree, like: ArrayTree) -> ArrayTree:
        """Return the factor of every leaf for every example.

        Args:
          leaf_norms: norms shaped `(batch,)`, in the structure of the gradients.
          like: one example's gradients (shapes and dtypes are looked at, no values).

        Returns:
          Finite factors of at least 0 shaped `(batch,)`, in the same structure.
        """


def checked_clip_norm(value: Any) -> float | jax.Array:
    """Return a clip norm: a float, or a scalar array that may be traced.

    Raises:
      ValueError: it is not a scalar, or known and not finite and > 0.
      TypeError: it is not a number.
    """
    if not isinstance(value, jax.Array):
        return _check.positive("l2_norm_clip", value)
    if value.shape != ():
        _check.fail("a scalar", "l2_norm_clip.shape", value.shape)
    if not _check.is_traced(value):
        _check.positive("l2_norm_clip", value)
    return value.astype(norms.working_dtype(value.dtype))
