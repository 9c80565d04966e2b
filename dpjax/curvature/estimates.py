"""Traces, diagonals and norms estimated from random probes, with standard errors."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import dp_accounting
import jax
import jax.numpy as jnp

from dpjax import _check
from dpjax.curvature import loops, vectors
from dpjax.curvature.matvec import MatVec, as_matvec
from dpjax.types import ArrayTree, KeyLike


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "stderr"],
    meta_fields=["event"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Estimate:
    """A mean over random probes.

    Attributes:
      value: the mean, an array or a pytree of them.
      stderr: its standard error, the sample standard deviation over the square root of
        the number of probes; NaN with one probe. It counts the probes, not the choice
        of the examples.
      event: what the operator cost; see `MatVec`.
    """

    value: ArrayTree
    stderr: ArrayTree
    event: dp_accounting.DpEvent | None


def trace(
    matvec: Callable[[ArrayTree], ArrayTree],
    like: ArrayTree,
    *,
    key: KeyLike,
    num_probes: int = 10,
    batch_size: int | None = None,
) -> Estimate:
    """Estimate the trace of an operator: the mean of v.Av over probes of fair signs.

    Unbiased; the variance is 2 (|A|_F^2 - sum_i a_ii^2) / num_probes, so that a
    diagonal operator is exact with one probe.

    Args:
      matvec: a symmetric linear operator, a `MatVec` or any callable.
      like: pytree of real floating-point arrays or `ShapeDtypeStruct`s.
      key: of the probes. Two estimates with one key share them. It may be that of the
        training: noise and sampling have streams of their own.
      num_probes: how many products, >= 1. Of an operator that knows its quadratic
        form, these are taken, and no product.
      batch_size: how many at the same time; None is one after the other.

    Returns:
      An `Estimate` of two scalars; not finite where a product is not.

    Raises:
      TypeError: leaves of `like` that are not real floating-point; an operator that
        cannot be traced inside of `jax.jit`.
      ValueError: numbers below 1, or a product that is not shaped like its vector.

    References:
      Hutchinson 1989; Avron and Toledo 2011, for the variance.

    >>> scales = jnp.array([1., 2., 3.])
    >>> estimate = trace(lambda v: scales * v, jnp.ones(3), key=0)
    >>> print(estimate.value, estimate.stderr)
    6.0 0.0
    """
    operator = as_matvec(matvec)
    if operator.form is None or not operator.traceable:
        samples = _samples(vectors.dot, matvec, like, key, num_probes, batch_size)
    else:
        space, probe_keys = vectors.space_of(like), _keys(key, like, num_probes)
        if batch_size is not None:
            _check.integer("batch_size", batch_size, minimum=1)
        samples = _forms(space, batch_size, operator, probe_keys)
    return sample_mean(samples, operator.event)


def frobenius_squared(
    matvec: Callable[[ArrayTree], ArrayTree],
    like: ArrayTree,
    *,
    key: KeyLike,
    num_probes: int = 10,
    batch_size: int | None = None,
) -> Estimate:
    """Estimate the sum of the squared entries of an operator: the mean of |Av|^2.

    For a symmetric operator, the sum of its squared eigenvalues. Arguments and errors
    are those of `trace`. Squares of eigenvalues below 1e-19 are lost in float32.

    >>> scales = jnp.array([1., 2., 3.])
    >>> print(frobenius_squared(lambda v: scales * v, jnp.ones(3), key=0).value)
    14.0
    """
    samples = _samples(_squared, matvec, like, key, num_probes, batch_size)
    return sample_mean(samples, as_matvec(matvec).event)


def diagonal(
    matvec: Callable[[ArrayTree], ArrayTree],
    like: ArrayTree,
    *,
    key: KeyLike,
    num_probes: int = 10,
) -> Estimate:
    """Estimate the diagonal of an operator: the mean of v * Av, entry by entry.

    Unbiased; the variance of entry i is the sum of the squares of the other entries in
    its row, over num_probes: expect tens of per cent from ten probes of a network.
    Arguments and errors are those of `trace`. Memory: five vectors, whatever the number
    of probes.

    Returns:
      An `Estimate` of two pytrees shaped like `like`.

    References:
      Bekas, Kokiopoulou and Saad 2007. Welford 1962, for the variance in one pass.

    >>> scales = jnp.array([1., 2., 3.])
    >>> print(diagonal(lambda v: scales * v, jnp.ones(3), key=0).value)
    [1. 2. 3.]
    """
    process = _Diagonal(
        vectors.space_of(like), _check.integer("num_probes", num_probes, minimum=1)
    )
    (mean, stderr) = loops.run(process, matvec, vectors.probe_key(key, like)[None])
    first = functools.partial(jax.tree.map, lambda leaf: leaf[0])
    return Estimate(first(mean), first(stderr), as_matvec(matvec).event)


def sample_mean(samples: jax.Array, event: dp_accounting.DpEvent | None) -> Estimate:
    """Return the mean of `samples` of shape `(probes,)` and its standard error."""
    peak = jnp.max(jnp.abs(samples))
    unit = jnp.where(peak == 0, jnp.ones_like(peak), peak)
    ratios, count = samples / unit, samples.shape[0]
    mean = jnp.mean(ratios)
    variance = jnp.sum((ratios - mean) ** 2) / jnp.asarray(count - 1, samples.dtype)
    return Estimate(mean * unit, jnp.sqrt(variance / count) * unit, event)


def _squared(_: ArrayTree, product: ArrayTree) -> jax.Array:
    return vectors.dot(product, product)


def _samples(
    statistic: Callable[[ArrayTree, ArrayTree], jax.Array],
    matvec: Callable[[ArrayTree], ArrayTree],
    like: ArrayTree,
    key: KeyLike,
    num_probes: int,
    batch_size: int | None,
) -> jax.Array:
    process = _Quadratic(vectors.space_of(like), statistic)
    probe_keys = _keys(key, like, num_probes)
    return loops.run(process, matvec, probe_keys, batch_size=batch_size)


def _keys(key: KeyLike, like: ArrayTree, num_probes: int) -> jax.Array:
    """Return a key a probe."""
    count = _check.integer("num_probes", num_probes, minimum=1)
    return jax.random.split(vectors.probe_key(key, like), count)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forms(
    space: vectors.Space, batch_size: int | None, matvec: MatVec, keys: jax.Array
) -> jax.Array:
    """Return v.Av of one probe a key."""

    def one(key: jax.Array) -> jax.Array:
        form: Any = matvec.form
        value = form(vectors.signs(space, key), *matvec.operands)
        _check.real_leaves("matvec.form(vector)", value)
        if jnp.shape(value) != ():
            _check.fail("a scalar", "matvec.form(vector).shape", jnp.shape(value))
        return jnp.asarray(value, space.dtype)

    return loops.in_turn(one, space, keys, batch_size)


@dataclasses.dataclass(frozen=True)
class _Quadratic:
    """One number of one probe and its product, as a `loops.Process`."""

    space: vectors.Space
    statistic: Callable[[ArrayTree, ArrayTree], jax.Array]
    num_products: int = 1

    def init(self, argument: jax.Array) -> tuple[ArrayTree, jax.Array]:
        return vectors.signs(self.space, argument), jnp.zeros((), self.space.dtype)

    def ask(self, state: tuple[ArrayTree, jax.Array]) -> ArrayTree:
        return state[0]

    def tell(
        self, state: tuple[ArrayTree, jax.Array], product: ArrayTree
    ) -> tuple[ArrayTree, jax.Array]:
        return state[0], self.statistic(state[0], product)

    def result(self, state: tuple[ArrayTree, jax.Array]) -> jax.Array:
        return state[1]


class _Moments(NamedTuple):
    """Mean and sum of squared deviations of the samples so far, over `unit`."""

    key: jax.Array
    done: jax.Array
    unit: jax.Array
    mean: ArrayTree
    squares: ArrayTree


@dataclasses.dataclass(frozen=True)
class _Diagonal:
    """The entries of v * Av over the probes, as a `loops.Process`."""

    space: vectors.Space
    num_products: int

    def init(self, argument: jax.Array) -> _Moments:
        zero = jnp.zeros((), self.space.dtype)
        empty = vectors.zero(self.space)
        return _Moments(argument, zero, zero, empty, empty)

    def ask(self, state: _Moments) -> ArrayTree:
        key = jax.random.fold_in(state.key, state.done.astype(jnp.uint32))
        return vectors.signs(self.space, key)

    def tell(self, state: _Moments, product: ArrayTree) -> _Moments:
        ratios, peak = vectors.split(product)
        unit = jnp.where(state.done == 0, peak, state.unit)
        done = state.done + 1
        samples = jax.tree.map(
            lambda probe, ratio: probe * ratio * (peak / unit), self.ask(state), ratios
        )
        apart = jax.tree.map(jnp.subtract, samples, state.mean)
        mean = jax.tree.map(lambda old, step: old + step / done, state.mean, apart)
        squares = jax.tree.map(
            lambda old, step, sample, new: old + step * (sample - new),
            *(state.squares, apart, samples, mean),
        )
        return _Moments(state.key, done, unit, mean, squares)

    def result(self, state: _Moments) -> tuple[ArrayTree, ArrayTree]:
        def stderr(squares: jax.Array) -> jax.Array:
            return jnp.sqrt(squares / (state.done - 1) / state.done)

        return (
            vectors.scaled(state.mean, state.unit),
            vectors.scaled(jax.tree.map(stderr, state.squares), state.unit),
        )
