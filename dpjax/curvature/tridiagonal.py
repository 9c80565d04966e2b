"""Tridiagonal forms, and their eigenvalues: on the host where that is possible."""

import dataclasses
import functools

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check
from dpjax.types import ArrayTree


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["diagonal", "off_diagonal", "residual", "basis"],
    meta_fields=["event"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Tridiagonal:
    """A Q^T = Q^T T + residual e_m q^T: the operator seen in an orthonormal basis Q.

    Attributes:
      diagonal: of T, shape `(m,)`.
      off_diagonal: of T, `(m - 1,)`, >= 0. A zero is a breakdown: the vectors before it
        span an invariant subspace, and T falls into independent blocks.
      residual: scalar: how far the whole basis is from an invariant subspace; 0 when it
        is one.
      basis: like the vectors, with a leading axis `(m,)`; each entry of length 1.
      event: what the operator cost; see `MatVec`.
    """

    diagonal: jax.Array
    off_diagonal: jax.Array
    residual: jax.Array
    basis: ArrayTree
    event: dp_accounting.DpEvent | None


def eigh(diagonal: jax.Array, off_diagonal: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return eigenvalues and eigenvectors of symmetric tridiagonal matrices.

    They are a few dozen rows large. Concrete ones are worked in float64 on the host,
    traced ones in their own precision where they are.

    Args:
      diagonal: `(..., m)`.
      off_diagonal: `(..., m - 1)`.

    Returns:
      The eigenvalues `(..., m)`, ascending, and the eigenvectors `(..., m, m)`, in
      columns; NaNs for a matrix that is not finite.

    >>> values, _ = eigh(jnp.array([2., 2.]), jnp.array([1.]))
    >>> print(values)
    [1. 3.]
    """
    if _check.is_traced(diagonal) or _check.is_traced(off_diagonal):
        return _eigh_traced(diagonal, off_diagonal)
    matrix = np.asarray(_dense(diagonal, off_diagonal), np.float64)
    finite = np.asarray(np.isfinite(matrix).all((-2, -1), keepdims=True))
    values, rotation = np.linalg.eigh(np.where(finite, matrix, 0))
    values = np.where(finite[..., 0], values, np.nan)
    rotation = np.where(finite, rotation, np.nan)
    dtype = diagonal.dtype
    return jnp.asarray(values, dtype), jnp.asarray(rotation, dtype)


def _eigh_traced(
    diagonal: jax.Array, off_diagonal: jax.Array
) -> tuple[jax.Array, jax.Array]:
    matrix = _dense(diagonal, off_diagonal)
    peak = jnp.max(jnp.abs(matrix), axis=(-2, -1), keepdims=True)
    unit = jnp.where(peak == 0, jnp.ones_like(peak), peak)
    values, rotation = jnp.linalg.eigh(matrix / unit)
    finite = jnp.isfinite(peak)
    return (
        jnp.where(finite[..., 0], values * unit[..., 0], jnp.nan),
        jnp.where(finite, rotation, jnp.nan),
    )


@jax.jit
def _dense(diagonal: jax.Array, off_diagonal: jax.Array) -> jax.Array:
    size = diagonal.shape[-1]
    matrix = jnp.zeros((*diagonal.shape, size), diagonal.dtype)
    here, after = np.arange(size), np.arange(size - 1)
    matrix = matrix.at[..., here, here].set(diagonal)
    matrix = matrix.at[..., after, after + 1].set(off_diagonal)
    return matrix.at[..., after + 1, after].set(off_diagonal)
