"""Systems of equations with a curvature matrix, by conjugate gradients."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.sparse import linalg

from dpjax import _check, _meshes
from dpjax.curvature import means, vectors
from dpjax.curvature.matvec import MatVec, as_matvec
from dpjax.types import ArrayTree


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "residual"],
    meta_fields=["event"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
    """The solution of a system of equations, and how far it is from one.

    Attributes:
      value: shaped like the right-hand side, float32 at least.
      residual: |b - (A + damping I) x| / |b|, computed anew from the solution; zero for
        a right-hand side of zeros. Look at it: conjugate gradients stop at `max_steps`
        whether or not they have arrived, and may fail on an indefinite operator. Where
        it is NaN, so is the value.
      event: what looking at the operator costs; the right-hand side is taken as given.
    """

    value: ArrayTree
    residual: jax.Array
    event: dp_accounting.DpEvent | None


def inverse_hvp(
    matvec: Callable[[ArrayTree], ArrayTree],
    vector: ArrayTree,
    *,
    damping: float | jax.Array,
    tolerance: float = 1e-5,
    max_steps: int = 100,
) -> Solution:
    """Solve (A + damping I) x = b by conjugate gradients, one product a step.

    A + damping I must be positive definite: take `ggn_operator` or a Fisher operator
    with damping > 0, or a Hessian where the loss is convex.

    Args:
      matvec: the operator A, a `MatVec` or any callable.
      vector: the right-hand side b.
      damping: at least 0.
      tolerance: stop once the residual that the recurrence carries is below
        tolerance x |b|. In float32 a residual below about 1e-6 x the condition
        number is out of reach.
      max_steps: stop then in any case.

    Returns:
      `.value`, with its `.residual`, and the operator's `.event`.

    Raises:
      ValueError: a negative damping or tolerance, no step, or a product that is not
        shaped like its vector.
      TypeError: a right-hand side or a product that is not real.

    References:
      Hestenes and Stiefel 1952, Methods of conjugate gradients for solving linear
      systems; the implementations are those of JAX and, for an operator that JAX cannot
      trace, SciPy.

    >>> import jax.numpy as jnp
    >>> solution = inverse_hvp(lambda v: 3 * v, jnp.array([4., 8.]), damping=1.0)
    >>> print(solution.value, solution.residual)
    [1. 2.] 0.0
    """
    if not _check.is_traced(damping):
        _check.non_negative("damping", damping)
    _check.non_negative("tolerance", tolerance)
    _check.integer("max_steps", max_steps, minimum=1)
    _check.real_leaves("vector", vector)
    value, residual = _solver(matvec)(
        means.widened(vector), damping, float(tolerance), max_steps
    )
    return Solution(value, residual, as_matvec(matvec).event)


def _solver(matvec: Callable[[ArrayTree], ArrayTree]) -> Callable[..., Any]:
    if isinstance(matvec, MatVec):
        return functools.partial(_compiled if matvec.traceable else _on_host, matvec)
    # A bare callable is traced anew: what it closes over may have changed.
    fresh = functools.partial(_solve, MatVec(matvec))
    return means.exact_jit(fresh, static_argnums=(2, 3))


def _solve(
    matvec: MatVec, vector: ArrayTree, damping: jax.Array, tolerance: float, steps: int
) -> tuple[ArrayTree, jax.Array]:
    def conjugate(product: Callable[..., ArrayTree], right: ArrayTree) -> ArrayTree:
        cg = jax.scipy.sparse.linalg.cg
        return cg(product, right, tol=tolerance, maxiter=steps)[0]

    damped = functools.partial(_damped, matvec, damping)
    with _meshes.context(vector):
        # The squares of a right-hand side that is not near one are lost in float32.
        right, unit = vectors.split(vector)
        value = _meshes.automatic(conjugate, damped, right)
        return _rated(value, damped(value), right, unit)


_compiled = means.exact_jit(_solve, static_argnums=(3, 4))


def _on_host(
    matvec: MatVec, vector: ArrayTree, damping: float, tolerance: float, steps: int
) -> tuple[ArrayTree, jax.Array]:
    right, unit = vectors.split(vector)
    flat, unravel = ravel_pytree(jax.device_get(right))

    def point(column: np.ndarray) -> ArrayTree:
        tree = unravel(jnp.asarray(column, flat.dtype).reshape(-1))
        return jax.device_put(tree, jax.tree.map(lambda leaf: leaf.sharding, right))

    def product(column: np.ndarray) -> np.ndarray:
        image = _damped(matvec, damping, point(column))
        return np.asarray(ravel_pytree(jax.device_get(image))[0])

    operator = linalg.LinearOperator((flat.size,) * 2, product, dtype=flat.dtype)
    # What is not finite shows in the residual: SciPy need not warn of it.
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        value, _ = linalg.cg(operator, np.asarray(flat), rtol=tolerance, maxiter=steps)
    solution = point(value)
    return _rated(solution, _damped(matvec, damping, solution), right, unit)


def _damped(matvec: MatVec, damping: float | jax.Array, vector: ArrayTree) -> ArrayTree:
    return _shifted(matvec(vector), damping, vector)


@jax.jit
def _shifted(product: ArrayTree, damping: jax.Array, vector: ArrayTree) -> ArrayTree:
    space = vectors.space_of(vector)
    product = vectors.placed(space, vectors.cast(space, "matvec(vector)", product))
    return jax.tree.map(
        lambda image, leaf: (image + damping * leaf).astype(leaf.dtype), product, vector
    )


def _rated(
    value: ArrayTree, product: ArrayTree, right: ArrayTree, unit: jax.Array
) -> tuple[ArrayTree, jax.Array]:
    """Return the solution times `unit`, and |right - product| / |right|."""
    rest = jax.tree.map(jnp.subtract, right, product)
    size = vectors.length(right)
    residual = vectors.length(rest) / jnp.where(size == 0, 1, size)
    # Conjugate gradients take NaN for an arrival, and return where they stand.
    failed = jnp.isnan(residual)
    value = vectors.scaled(value, jnp.where(failed, jnp.nan, unit))
    return value, residual
