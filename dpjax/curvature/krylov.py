"""The Lanczos process, guarded: exact where the operator is degenerate."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check, _meshes
from dpjax.curvature import loops, vectors
from dpjax.curvature.matvec import as_matvec
from dpjax.curvature.tridiagonal import Tridiagonal
from dpjax.types import ArrayTree, KeyLike

BREAKDOWN = 10
"""What is left of a product below this many roundings of it is no direction."""

_CANCELLED = 0.5
"""What keeps less of its length in one dense pass takes another."""


def lanczos(
    matvec: Callable[[ArrayTree], ArrayTree],
    like: ArrayTree,
    *,
    key: KeyLike,
    num_steps: int,
    start: ArrayTree | None = None,
) -> Tridiagonal:
    """Reduce a symmetric operator to tridiagonal form in `num_steps` products.

    Every product is orthogonalised against the two newest vectors, then against the
    whole basis, once more where that cancels much of it. Where nothing but
    rounding is left of it, the subspace is invariant: a zero is written into T, and the
    process goes on from a fresh random direction. So repeated eigenvalues, low rank and
    zero operators come out with their multiplicity, and no eigenvalue of T lies outside
    of the spectrum. Nothing depends on the scale of the operator.

    Time beside the products: 4 m n operations a step, or twice that. Memory: the basis,
    m x n values of 4 bytes (8 in float64).

    Args:
      matvec: a symmetric linear operator, a `MatVec` or any callable.
      like: pytree of n real floating-point values in all (arrays or
        `ShapeDtypeStruct`s). Narrow ones are worked in float32.
      key: of the random directions.
      num_steps: m >= 1, how many products; at most n of them are used.
      start: the first direction, shaped like `like`, such as an eigenvector of an
        operator nearby. None draws one; so does zero.

    Returns:
      A `Tridiagonal`. An operator that gives NaN or infinity makes NaNs of all that
      comes after.

    Raises:
      TypeError: leaves of `like` that are not real floating-point; an operator that
        cannot be traced inside of `jax.jit`.
      ValueError: `num_steps` < 1, or a product that is not shaped like its vector.

    References:
      Golub and Van Loan, Matrix Computations, algorithm 10.1.1 and section 10.3.5.
      Giraud, Langou, Rozloznik and van den Eshof 2005 (twice is enough).

    >>> scales = jnp.array([3., 3., 1.])
    >>> t = lanczos(lambda v: scales * v, jnp.ones(3), key=0, num_steps=2)
    >>> t.basis.shape, t.off_diagonal.shape
    ((2, 3), (1,))
    """
    space = vectors.space_of(like)
    steps = min(_check.integer("num_steps", num_steps, minimum=1), space.size)
    if start is not None:
        start = vectors.cast(space, "start", start)
    argument = begin(space, vectors.probe_key(key, like), start)
    state = loops.run(
        Lanczos(space, steps), matvec, jax.tree.map(lambda leaf: leaf[None], argument)
    )
    state = jax.tree.map(lambda leaf: leaf[0], state)
    return Tridiagonal(
        state.diagonal,
        state.off_diagonal[:-1],
        state.off_diagonal[-1],
        state.basis,
        as_matvec(matvec).event,
    )


class State(NamedTuple):
    """The process after some steps; rows of later steps are zero."""

    key: jax.Array
    step: jax.Array
    scale: jax.Array
    diagonal: jax.Array
    off_diagonal: jax.Array
    basis: ArrayTree


@dataclasses.dataclass(frozen=True)
class Lanczos:
    """The Lanczos process as a `loops.Process`.

    Attributes:
      space: of the vectors.
      num_products: the number of steps.
    """

    space: vectors.Space
    num_products: int

    def init(self, argument: tuple[jax.Array, ArrayTree]) -> State:
        """Return the state with one vector, the second part of the argument."""
        key, first = argument
        rows, dtype = self.num_products, self.space.dtype
        empty = jax.tree.map(functools.partial(_rows_like, rows), self.space.like)
        zeros = jnp.zeros((rows,), dtype)
        zero = jnp.zeros((), dtype)
        return State(
            key,
            jnp.zeros((), jnp.int32),
            zero,
            zeros,
            zeros,
            _set(empty, 0, vectors.normalised(first)),
        )

    def ask(self, state: State) -> ArrayTree:
        """Return the newest vector of the basis."""
        return jax.tree.map(lambda rows: rows[state.step], state.basis)

    def tell(self, state: State, product: ArrayTree) -> State:
        """Orthogonalise a product and append it to the basis."""
        step, basis = state.step, state.basis
        rest, unit = vectors.split(product)
        scale = jnp.maximum(state.scale, vectors.length(rest) * unit)
        rest, alpha = self._recurrence(state, rest, unit)
        rest, length, weights = _orthogonal(basis, rest)
        tolerance = BREAKDOWN * np.finfo(self.space.dtype).eps * scale
        broken = length * unit <= tolerance
        following = jax.lax.cond(
            broken,
            lambda: self._fresh(jax.random.fold_in(state.key, step + 1), basis),
            lambda: vectors.scaled(rest, 1 / length),
        )
        beta = jnp.where(broken, jnp.zeros_like(length), length * unit)
        return State(
            state.key,
            step + 1,
            scale,
            state.diagonal.at[step].set((alpha + weights[step]) * unit),
            state.off_diagonal.at[step].set(beta),
            _set(basis, step + 1, following),
        )

    def result(self, state: State) -> State:
        """Return the last state."""
        return state

    def _recurrence(
        self, state: State, x: ArrayTree, unit: jax.Array
    ) -> tuple[ArrayTree, jax.Array]:
        """Subtract the two newest vectors, so that the dense pass has little to do."""
        step, before = state.step, jnp.maximum(state.step - 1, 0)
        newest = self.ask(state)
        alpha = vectors.dot(newest, x)
        beta = jnp.where(step == 0, 0, state.off_diagonal[before] / unit)
        rest = jax.tree.map(
            lambda leaf, new, rows: (leaf - alpha * new - beta * rows[before]).astype(
                leaf.dtype
            ),
            *(x, newest, state.basis),
        )
        return rest, alpha

    def _fresh(self, key: jax.Array, basis: ArrayTree) -> ArrayTree:
        def cleaner(_: int, x: ArrayTree) -> ArrayTree:
            weights = vectors.coefficients(basis, x)
            return vectors.normalised(_without(basis, x, weights))

        return jax.lax.fori_loop(0, 3, cleaner, vectors.generic(self.space, key))


@functools.partial(jax.jit, static_argnums=0)
def begin(
    space: vectors.Space, key: jax.Array, start: ArrayTree | None
) -> tuple[jax.Array, ArrayTree]:
    """Return the key of what is drawn later, and the first direction."""
    with _meshes.context(space.like):
        first, later = jax.random.split(key)
        drawn = vectors.generic(space, first)
        if start is None:
            return later, drawn
        start = vectors.placed(space, start)
        zeros = [jnp.all(leaf == 0) for leaf in jax.tree.leaves(start)]
        choose = functools.partial(jnp.where, jnp.all(jnp.stack(zeros)))
        return later, jax.tree.map(choose, drawn, start)


def _orthogonal(
    basis: ArrayTree, x: ArrayTree
) -> tuple[ArrayTree, jax.Array, jax.Array]:
    """Return what of `x` is orthogonal to a basis, its length, and the coefficients.

    One dense pass over the basis, and a second where the first left less than half of
    the length: then the rounding of the first counts.
    """
    first = vectors.coefficients(basis, x)
    rest = _without(basis, x, first)
    before, after = vectors.length(x), vectors.length(rest)

    def again() -> tuple[ArrayTree, jax.Array, jax.Array]:
        second = vectors.coefficients(basis, rest)
        cleaner = _without(basis, rest, second)
        return cleaner, vectors.length(cleaner), first + second

    return jax.lax.cond(
        after >= _CANCELLED * before, lambda: (rest, after, first), again
    )


def _without(basis: ArrayTree, x: ArrayTree, weights: jax.Array) -> ArrayTree:
    return jax.tree.map(jnp.subtract, x, vectors.combination(basis, weights))


def _rows_like(rows: int, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    zeros = jnp.zeros((rows, *leaf.shape), leaf.dtype)
    if leaf.sharding is None:
        return zeros
    along = jax.P(None, *leaf.sharding.spec)
    return _meshes.placed(zeros, _meshes.Sharding(leaf.sharding.mesh, along))


def _set(basis: ArrayTree, row: int | jax.Array, vector: ArrayTree) -> ArrayTree:
    # The row after the last is dropped.
    return jax.tree.map(
        lambda rows, leaf: rows.at[row].set(leaf, mode="drop"), basis, vector
    )
