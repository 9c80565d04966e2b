"""Correlated noise, step by step: nothing as large as a matrix is ever held."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check
from dpjax.noise import gaussian, keys
from dpjax.noise.correlated.strategy import Strategy, check_steps
from dpjax.types import ArrayTree, KeyLike

DOMAIN = "dpjax.noise.correlated"
"""Names the stream of the rows of Z; plain Gaussian noise has another."""


class CorrelatedNoiseState(NamedTuple):
    """What the next row of noise is made of: plain arrays.

    Attributes:
      key: key data, uint32 (2,). As secret as the data, and so are the buffers.
      step: uint32, the row to come.
      buffers: what the strategy remembers of the rows before, with their standard
        deviation.
    """

    key: jax.Array
    step: jax.Array
    buffers: ArrayTree


def init_correlated_noise(
    strategy: Strategy, key: KeyLike | None, like: ArrayTree, *, num_steps: int
) -> CorrelatedNoiseState:
    """Return the state before step 0.

    Args:
      strategy: how rows are correlated.
      key: PRNG key, key data or seed; None draws it from the operating system.
      like: pytree of floating-point or complex arrays, or their shapes and dtypes.
      num_steps: the steps to come, which are all that is accounted for.

    Raises:
      TypeError: a leaf or an argument of the wrong kind.
      ValueError: a number of steps that the strategy is not made for.
    """
    steps = check_steps(strategy, num_steps)
    _check.float_leaves("like", like)
    data = keys.key_data(key)
    rows = jax.eval_shape(
        lambda words: gaussian.domain_noise(DOMAIN, words, 0, like, 1.0), data
    )
    return CorrelatedNoiseState(data, jnp.uint32(0), strategy.init_buffers(rows, steps))


def correlated_noise(
    strategy: Strategy,
    state: CorrelatedNoiseState,
    like: ArrayTree,
    stddev: float,
    *,
    num_steps: int,
) -> tuple[ArrayTree, CorrelatedNoiseState]:
    """Draw the next row of `stddev * M Z`, shaped like a pytree.

    Z has independent standard normal rows: row r is a pure function of the key, r, and
    of each leaf's path, shape and dtype, as in `gaussian_noise`. A run that is resumed
    from a state goes on, bit for bit, as it would have.

    Args:
      strategy: gives M; the same at every step.
      state: before the step.
      like: pytree whose paths, shapes and dtypes are read; the same at every step.
      stddev: that of the values of Z, >= 0; the same at every step, and static.
      num_steps: as in `init_correlated_noise`.

    Returns:
      Noise of the dtypes of `like`, at least 32 bits wide, and the next state.

    Raises:
      ValueError: a step at or beyond `num_steps`, where it is concrete, or `stddev` out
        of range.

    Guarantee:
      Adding these rows to clipped sums of norm 1 costs what one Gaussian mechanism does
      with the noise multiplier `stddev` over `sensitivity(...)`, for all `num_steps`
      steps together. Beyond them nothing is promised: under a trace, where the step
      cannot be looked at, the noise of such a step is NaN.

    >>> from dpjax.noise.correlated import Identity
    >>> like = jnp.zeros(3)
    >>> state = init_correlated_noise(Identity(), 0, like, num_steps=2)
    >>> noise, state = correlated_noise(Identity(), state, like, 1.0, num_steps=2)
    >>> noise.shape, int(state.step)
    ((3,), 1)
    """
    steps = check_steps(strategy, num_steps)
    key, step, buffers = state
    inside = step < steps
    if not _check.is_traced(inside) and not inside:
        _check.fail(f"a step below num_steps={steps}", "step", int(step))
    leaves, tree = jax.tree.flatten(like)
    shapes = tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    stddev = _check.non_negative("stddev", stddev)
    noise, buffers = _next_row(strategy, tree, shapes, stddev, key, step, buffers)
    noise = jax.tree.map(lambda row: jnp.where(inside, row, jnp.nan), noise)
    return noise, CorrelatedNoiseState(key, step + 1, buffers)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _next_row(
    strategy: Strategy,
    tree: Any,
    shapes: tuple[tuple[tuple[int, ...], Any], ...],
    stddev: float,
    key: jax.Array,
    step: jax.Array,
    buffers: ArrayTree,
) -> tuple[ArrayTree, ArrayTree]:
    """Return the noise, and the buffers after it: compiled once for all steps."""
    leaves = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    like = jax.tree.unflatten(tree, leaves)

    def draw(row: jax.Array) -> ArrayTree:
        return gaussian.domain_noise(DOMAIN, key, row, like, stddev)

    return strategy.next_noise(draw, jnp.asarray(step, jnp.uint32), buffers)
