"""One loop for every algorithm: ask for a vector, multiply, tell the product.

What an algorithm does between two products is written once. It runs inside one
`lax.scan` when JAX can trace the operator, and as a loop on the host around compiled
steps when it cannot (an operator that walks over batches of a data set).
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from dpjax import _check, _meshes
from dpjax.curvature import vectors
from dpjax.curvature.matvec import MatVec, as_matvec
from dpjax.types import ArrayTree


class Process(Protocol):
    """An algorithm over a matvec; hashable, equal ones share a compiled program."""

    @property
    def space(self) -> vectors.Space:
        """Return the vectors that it works with."""

    @property
    def num_products(self) -> int:
        """Return how many products it asks for."""

    def init(self, argument: Any) -> Any:
        """Return the state before the first product."""

    def ask(self, state: Any) -> ArrayTree:
        """Return the vector to multiply next."""

    def tell(self, state: Any, product: ArrayTree) -> Any:
        """Return the state after a product."""

    def result(self, state: Any) -> Any:
        """Return what is kept of the last state."""


def run(
    process: Process,
    matvec: Callable[[ArrayTree], ArrayTree],
    arguments: ArrayTree,
    *,
    batch_size: int | None = None,
) -> Any:
    """Run a process for each of its arguments, one after the other.

    Args:
      process: the algorithm.
      matvec: the operator. A `MatVec` compiles once for all that have an equal
        function; a bare callable anew in each call, since what it closes over may have
        changed.
      arguments: pytree whose leaves have a leading axis, one entry a run.
      batch_size: how many runs to work at the same time, in as many times the memory;
        None is one. Operators that cannot be traced, and vectors that are split over
        explicit axes of a mesh, always take one.

    Returns:
      The results, stacked on a leading axis.

    Raises:
      TypeError: an operator that cannot be traced is called inside `jax.jit`.
      ValueError: the product is not shaped like the vector.
    """
    if batch_size is not None:
        _check.integer("batch_size", batch_size, minimum=1)
    if not as_matvec(matvec).traceable:
        return _on_host(process, as_matvec(matvec), arguments)
    if isinstance(matvec, MatVec):
        return _compiled(process, batch_size, matvec, arguments)
    fresh = functools.partial(_traced, process, batch_size, as_matvec(matvec))
    return jax.jit(fresh)(arguments)


def _traced(
    process: Process, batch_size: int | None, matvec: MatVec, arguments: ArrayTree
) -> Any:
    def step(state: Any, _: None) -> tuple[Any, None]:
        product = matvec(process.ask(state))
        return process.tell(state, _checked(process, product)), None

    def one(argument: Any) -> Any:
        state = process.init(argument)
        if process.num_products == 1:
            return process.result(step(state, None)[0])
        state, _ = jax.lax.scan(step, state, length=process.num_products)
        return process.result(state)

    return in_turn(one, process.space, arguments, batch_size)


def in_turn(
    one: Callable[[Any], Any],
    space: vectors.Space,
    arguments: ArrayTree,
    batch_size: int | None,
) -> Any:
    """Apply a function of vectors of a space to arguments in turn, inside `jax.jit`.

    Args and results are those of `run`, which says what `batch_size` does.
    """
    with _meshes.context(space.like):
        if _check.leading_axis("arguments", arguments) == 1:
            only = one(jax.tree.map(lambda leaf: leaf[0], arguments))
            return jax.tree.map(lambda leaf: leaf[None], only)
        size = None if _meshes.is_split(space.like) else batch_size
        return jax.lax.map(one, arguments, batch_size=size)


_compiled = jax.jit(_traced, static_argnums=(0, 1))


def _on_host(process: Process, matvec: MatVec, arguments: ArrayTree) -> Any:
    results = []
    for index in range(_check.leading_axis("arguments", arguments)):
        argument = jax.tree.map(operator.itemgetter(index), arguments)
        state = _init(process, argument)
        for _ in range(process.num_products):
            vector = _ask(process, state)
            _refuse_traced(vector)
            state = _tell(process, state, matvec(vector))
        results.append(process.result(state))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


def _refuse_traced(vector: ArrayTree) -> None:
    if any(map(_check.is_traced, jax.tree.leaves(vector))):
        expected = "an operator that JAX can trace inside of jax.jit"
        _check.fail(expected, "matvec.traceable", False, TypeError)


def _checked(process: Process, product: ArrayTree) -> ArrayTree:
    product = vectors.cast(process.space, "matvec(vector)", product)
    return vectors.placed(process.space, product)


@functools.partial(jax.jit, static_argnums=0)
def _init(process: Process, argument: Any) -> Any:
    with _meshes.context(process.space.like):
        return process.init(argument)


@functools.partial(jax.jit, static_argnums=0)
def _ask(process: Process, state: Any) -> ArrayTree:
    with _meshes.context(process.space.like):
        return process.ask(state)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _tell(process: Process, state: Any, product: ArrayTree) -> Any:
    with _meshes.context(process.space.like):
        return process.tell(state, _checked(process, product))
