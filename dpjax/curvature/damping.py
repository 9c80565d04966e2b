"""An operator plus a multiple of the identity."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dpjax import _check
from dpjax.curvature.matvec import MatVec, as_matvec
from dpjax.types import ArrayTree


def damped(matvec: Callable[[ArrayTree], ArrayTree], damping: float) -> MatVec:
    """Return `matvec + damping * identity`, at the price of `matvec`.

    Args:
      matvec: a linear operator, a `MatVec` or any callable.
      damping: >= 0 where it is known; may be traced.

    Raises:
      ValueError, TypeError: `damping` is negative, not finite or no number.

    Example:
      >>> print(damped(lambda v: 2 * v, 0.5)(jnp.ones(2)))
      [2.5 2.5]
    """
    if not _check.is_traced(damping):
        damping = _check.non_negative("damping", damping)
    inner = as_matvec(matvec)
    return MatVec(_shifted, (inner, damping), inner.event, inner.traceable)


def _shifted(vector: ArrayTree, matvec: MatVec, damping: jax.Array) -> ArrayTree:
    return jax.tree.map(
        lambda product, leaf: product + jnp.asarray(damping * leaf, product.dtype),
        matvec(vector),
        vector,
    )
