"""The two ends of a spectrum, for little more than the products."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check
from dpjax.curvature import krylov, loops, tridiagonal, vectors
from dpjax.curvature.matvec import as_matvec
from dpjax.types import ArrayTree, KeyLike


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["largest", "smallest", "residuals"],
    meta_fields=["event"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Extremes:
    """Estimates of the largest and the smallest eigenvalue, both from within.

    Attributes:
      largest: scalar, at most the largest eigenvalue, up to rounding.
      smallest: scalar, at least the smallest.
      residuals: `(2,)`: the spectrum has an eigenvalue at most this far from each of
        the two, up to rounding and to what is said of ghosts.
      event: what the operator cost; see `MatVec`.
    """

    largest: jax.Array
    smallest: jax.Array
    residuals: jax.Array
    event: dp_accounting.DpEvent | None


def extreme_eigenvalues(
    matvec: Callable[[ArrayTree], ArrayTree],
    like: ArrayTree,
    *,
    key: KeyLike,
    num_steps: int = 10,
    start: ArrayTree | None = None,
) -> Extremes:
    """Estimate the largest and the smallest eigenvalue in `num_steps` products.

    The Lanczos recurrence without its basis: three vectors, whatever the number of
    steps, and about as much time beside a product as adding two vectors takes. Without
    the basis no product is orthogonalised again, so that an end that has converged
    comes back as a ghost; ghosts repeat eigenvalues and add none, so that the ends stay
    right (Paige 1980). Eigenvectors, multiplicities and densities need `lanczos`.

    The sharpness of a loss is `.largest` of its Hessian.

    Args:
      matvec: a symmetric linear operator, a `MatVec` or any callable.
      like: pytree of n real floating-point values in all (arrays or
        `ShapeDtypeStruct`s).
      key: of the first direction.
      num_steps: products to spend, >= 1; at most n of them are used.
      start: the first direction, shaped like `like`. None draws one; so does zero.

    Returns:
      `Extremes`; NaNs when a product was not finite.

    Raises:
      TypeError: leaves of `like` that are not real floating-point; an operator that
        cannot be traced inside of `jax.jit`.
      ValueError: `num_steps` < 1, or a product that is not shaped like its vector.

    References:
      Paige 1980, Accuracy and effectiveness of the Lanczos algorithm for the symmetric
      eigenproblem.

    >>> scales = jnp.array([1., -5., 3.])
    >>> ends = extreme_eigenvalues(lambda v: scales * v, jnp.ones(3), key=0)
    >>> print(ends.largest.round(4), ends.smallest.round(4))
    3.0 -5.0
    """
    space = vectors.space_of(like)
    steps = min(_check.integer("num_steps", num_steps, minimum=1), space.size)
    if start is not None:
        start = vectors.cast(space, "start", start)
    _, first = krylov.begin(space, vectors.probe_key(key, like), start)
    last = loops.run(
        _Recurrence(space, steps), matvec, jax.tree.map(lambda leaf: leaf[None], first)
    )
    diagonal, off_diagonal = (last.diagonal[0], last.off_diagonal[0])
    values, rotation = tridiagonal.eigh(diagonal, off_diagonal[:-1])
    residuals = abs(off_diagonal[-1] * rotation[-1, np.array([-1, 0])])
    return Extremes(values[-1], values[0], residuals, as_matvec(matvec).event)


class _Coefficients(NamedTuple):
    """T after some steps; `off_diagonal[i]` is what step i left."""

    diagonal: jax.Array
    off_diagonal: jax.Array


class _State(NamedTuple):
    """The process after some steps.

    Attributes:
      step: how many.
      older, newer: the last two vectors, of length 1; zero where there is none.
      unit: the largest entry of the first product, which scales all of them.
      beta: what the last step left, over `unit`.
      norm: the length of the longest product so far, over `unit`.
      coefficients: of T.
    """

    step: jax.Array
    older: ArrayTree
    newer: ArrayTree
    unit: jax.Array
    beta: jax.Array
    norm: jax.Array
    coefficients: _Coefficients


@dataclasses.dataclass(frozen=True)
class _Recurrence:
    """The three-term recurrence as a `loops.Process`.

    Where nothing is left of a product, the subspace is invariant and holds the ends of
    what the first direction reaches. From there on T is continued by its first entry, a
    Rayleigh quotient, which lies between the ends.
    """

    space: vectors.Space
    num_products: int

    def init(self, argument: ArrayTree) -> _State:
        zero = jnp.zeros((), self.space.dtype)
        zeros = jnp.zeros((self.num_products,), self.space.dtype)
        none = jax.tree.map(jnp.zeros_like, argument)
        first = vectors.normalised(argument)
        step, empty = jnp.zeros((), jnp.int32), _Coefficients(zeros, zeros)
        return _State(step, none, first, zero + 1, zero, zero, empty)

    def ask(self, state: _State) -> ArrayTree:
        return state.newer

    def tell(self, state: _State, product: ArrayTree) -> _State:
        step = state.step
        unit = jax.lax.cond(
            step == 0, lambda: vectors.split(product)[1], lambda: state.unit
        )
        alpha = vectors.dot(state.newer, product) / unit
        rest = jax.tree.map(
            lambda new, now, old: (new / unit - alpha * now - state.beta * old).astype(
                new.dtype
            ),
            *(product, state.newer, state.older),
        )
        beta = vectors.length(rest)
        norm = jnp.maximum(state.norm, jnp.hypot(jnp.hypot(alpha, beta), state.beta))
        ended = (step > 0) & (state.beta == 0)
        alpha = jnp.where(ended, state.coefficients.diagonal[0] / unit, alpha)
        least = krylov.BREAKDOWN * np.finfo(self.space.dtype).eps * norm
        beta = jnp.where(ended | (beta <= least), 0, beta)
        inverse = jnp.where(beta == 0, 0, 1 / beta)
        coefficients = _Coefficients(
            state.coefficients.diagonal.at[step].set(alpha * unit),
            state.coefficients.off_diagonal.at[step].set(beta * unit),
        )
        newest = vectors.scaled(rest, inverse)
        return _State(step + 1, state.newer, newest, unit, beta, norm, coefficients)

    def result(self, state: _State) -> _Coefficients:
        return state.coefficients
