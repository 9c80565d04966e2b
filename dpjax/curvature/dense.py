"""The matrix of an operator, for what is small enough to look at whole."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dpjax import _check
from dpjax.curvature.matvec import MatVec, as_matvec
from dpjax.curvature.means import check_real, wide_type
from dpjax.curvature.readings import Reading
from dpjax.types import ArrayTree

LARGEST = 4096
"""The most rows that `dense` forms: a float32 matrix of 64 MiB."""


def dense(matvec: Callable[[ArrayTree], ArrayTree], like: ArrayTree) -> Reading:
    """Return the matrix of an operator, one product a column.

    Args:
      matvec: a `MatVec` or any callable.
      like: a pytree of arrays, or of their shapes, like the operator's vectors.

    Returns:
      `.value`, `(n, n)`, rows and columns in the order of
      `jax.flatten_util.ravel_pytree`, float32 at least; and the operator's `.event`.

    Raises:
      ValueError: more than 4096 rows.

    >>> import jax.numpy as jnp
    >>> print(dense(lambda v: {"a": v["b"], "b": v["a"]}, {"a": 1.0, "b": 2.0}).value)
    [[0. 1.]
     [1. 0.]]
    """
    check_real("like", like)
    size = sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(like))
    if size > LARGEST:
        _check.fail(f"at most {LARGEST} rows", "the size of like", size)
    operator = as_matvec(matvec)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(np.shape(leaf), wide_type(leaf)), like)
    form = _columns if operator.traceable else _columns_on_host
    return Reading(form(operator, zeros).T, operator.event)


@jax.jit
def _columns(matvec: MatVec, zeros: ArrayTree) -> jax.Array:
    flat, unravel = ravel_pytree(zeros)

    def column(unit: jax.Array) -> jax.Array:
        return ravel_pytree(matvec(unravel(unit)))[0]

    return jax.lax.map(column, jnp.eye(flat.size, dtype=flat.dtype))


def _columns_on_host(matvec: MatVec, zeros: ArrayTree) -> jax.Array:
    flat, unravel = ravel_pytree(zeros)
    units = jnp.eye(flat.size, dtype=flat.dtype)
    return jnp.stack([ravel_pytree(matvec(unravel(unit)))[0] for unit in units])
