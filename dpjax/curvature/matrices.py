"""The matrix of an operator, for what is small enough to look at whole."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dpjax import _check, _meshes
from dpjax.curvature import loops, vectors
from dpjax.curvature.matvec import as_matvec
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
    space = vectors.space_of(like)
    if space.size > LARGEST:
        _check.fail(f"at most {LARGEST} rows", "the size of like", space.size)
    units = _meshes.beside(jnp.eye(space.size, dtype=space.dtype), like)
    columns = loops.run(_Column(space), matvec, units)
    return Reading(columns.T, as_matvec(matvec).event)


@dataclasses.dataclass(frozen=True)
class _Column:
    """One product with a unit vector; the state is a flat vector."""

    space: vectors.Space
    num_products: int = 1

    def init(self, argument: jax.Array) -> jax.Array:
        return argument

    def ask(self, state: jax.Array) -> ArrayTree:
        return vectors.shaped(self.space, state)

    def tell(self, state: jax.Array, product: ArrayTree) -> jax.Array:
        whole = jax.tree.map(_meshes.gathered, product)
        return ravel_pytree(whole)[0].astype(state.dtype)

    def result(self, state: jax.Array) -> jax.Array:
        return state
