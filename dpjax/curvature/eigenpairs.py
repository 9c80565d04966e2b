"""Eigenvalues at the ends of the spectrum, with vectors and residuals."""

import dataclasses
import functools
from collections.abc import Callable

import dp_accounting
import jax

from dpjax import _check
from dpjax.curvature import krylov, tridiagonal, vectors
from dpjax.types import ArrayTree, KeyLike


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "vectors", "residuals"],
    meta_fields=["event"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Some eigenvalues of a symmetric operator and how good they are.

    Attributes:
      values: shape `(k,)`, in the order that the function says.
      vectors: like the operator's vectors, with a leading axis `(k,)`; each of length
        1. They are directions made of the data: no result tells more about it.
      residuals: |A v - value v|, `(k,)`, up to rounding. The spectrum has an eigenvalue
        at most this far from each value.
      event: what the operator cost; see `MatVec`.
    """

    values: jax.Array
    vectors: ArrayTree
    residuals: jax.Array
    event: dp_accounting.DpEvent | None


def top_eigenpairs(
    matvec: Callable[[ArrayTree], ArrayTree],
    like: ArrayTree,
    k: int,
    *,
    key: KeyLike,
    num_steps: int | None = None,
    start: ArrayTree | None = None,
) -> Eigenpairs:
    """Return the k largest eigenvalues, the largest first, with their vectors.

    Largest by value, not by magnitude: the sharpness of a loss is `values[0]`. See
    `lanczos` for the method, what degenerate operators give, and the memory; where a
    basis of m vectors does not fit, `optax.power_iteration(matvec, v0=...)` finds the
    eigenvalue of largest magnitude in three.

    An eigenvalue that is repeated is found once until the process has exhausted what
    the first direction reaches (as many steps as there are different eigenvalues).

    Args:
      matvec: a symmetric linear operator, a `MatVec` or any callable.
      like: pytree of n real floating-point values in all.
      k: how many, in [1, n].
      key: of the random directions.
      num_steps: products to spend, in [k, n]; more than n is n. None is `2 k + 20`.
      start: the first direction; that of an operator nearby saves steps, such as
        `jax.tree.map(lambda leaf: leaf[0], previous.vectors)`.

    Returns:
      `Eigenpairs`; NaNs when a product was not finite.

    Raises:
      TypeError: see `lanczos`.
      ValueError: see `lanczos`; k below 1, or above `num_steps` or n.

    >>> import jax.numpy as jnp
    >>> scales = jnp.array([1., -5., 3.])
    >>> top = top_eigenpairs(lambda v: scales * v, jnp.ones(3), 2, key=0)
    >>> print(top.values.round(4))
    [3. 1.]
    """
    reduced = _reduced(matvec, like, k, key, num_steps, start)
    return top_ritz_pairs(reduced, k)


def bottom_eigenpairs(
    matvec: Callable[[ArrayTree], ArrayTree],
    like: ArrayTree,
    k: int,
    *,
    key: KeyLike,
    num_steps: int | None = None,
    start: ArrayTree | None = None,
) -> Eigenpairs:
    """Return the k smallest eigenvalues, the smallest first, with their vectors.

    Smallest by value: the most negative ones of an indefinite operator. Arguments and
    errors are those of `top_eigenpairs`. Who wants both ends runs `lanczos` once and
    takes `top_ritz_pairs` and `bottom_ritz_pairs` of it.

    >>> import jax.numpy as jnp
    >>> scales = jnp.array([1., -5., 3.])
    >>> bottom = bottom_eigenpairs(lambda v: scales * v, jnp.ones(3), 2, key=0)
    >>> print(bottom.values.round(4))
    [-5.  1.]
    """
    reduced = _reduced(matvec, like, k, key, num_steps, start)
    return bottom_ritz_pairs(reduced, k)


def top_ritz_pairs(reduced: tridiagonal.Tridiagonal, k: int) -> Eigenpairs:
    """Return the k largest eigenvalues of T, descending, as those of the operator.

    Raises:
      ValueError: k is below 1 or above the number of steps.
    """
    return _pairs(reduced, k, slice(None, -k - 1, -1))


def bottom_ritz_pairs(reduced: tridiagonal.Tridiagonal, k: int) -> Eigenpairs:
    """Return the k smallest eigenvalues of T, ascending, as those of the operator.

    Raises:
      ValueError: k is below 1 or above the number of steps.
    """
    return _pairs(reduced, k, slice(k))


def _reduced(
    matvec: Callable[[ArrayTree], ArrayTree],
    like: ArrayTree,
    k: int,
    key: KeyLike,
    num_steps: int | None,
    start: ArrayTree | None,
) -> tridiagonal.Tridiagonal:
    steps = 2 * _check.integer("k", k, minimum=1) + 20
    if num_steps is not None:
        steps = _check.integer("num_steps", num_steps, minimum=1)
    _at_most("k", k, min(steps, vectors.space_of(like).size))
    return krylov.lanczos(matvec, like, key=key, num_steps=steps, start=start)


def _pairs(reduced: tridiagonal.Tridiagonal, k: int, which: slice) -> Eigenpairs:
    _at_most("k", _check.integer("k", k, minimum=1), reduced.diagonal.shape[0])
    values, rotation = tridiagonal.eigh(reduced.diagonal, reduced.off_diagonal)
    weights = rotation.T[which]
    basis = vectors.combination(reduced.basis, weights)
    residuals = abs(reduced.residual * weights[:, -1])
    return Eigenpairs(values[which], basis, residuals, reduced.event)


def _at_most(name: str, value: int, limit: int) -> None:
    if value > limit:
        _check.fail(f"at most {limit}, the number of steps", name, value)
