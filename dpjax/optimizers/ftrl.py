"""Follow the regularised leader on private gradients, with momentum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dpjax import _check
from dpjax.types import ArrayTree, Params


class FtrlState(NamedTuple):
    """State of DP-FTRL with momentum.

    Attributes:
      step: int32, steps taken.
      start: the parameters at the start.
      total: the sum of all private gradients so far, float32 at least.
      momentum: the sum of these sums, older ones decayed.
    """

    step: jax.Array
    start: Params
    total: ArrayTree
    momentum: ArrayTree


def ftrl(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.9,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """Move to the start less the learning rate times the (averaged) sum of gradients.

    With s_t the sum of the private gradients up to step t, and m the momentum,

        v_t = m v_(t-1) + s_t,    parameters <- start - learning rate * v_t

    (Nesterov: m v_t + s_t in the place of v_t.) What moves the parameters are sums s_t,
    whose noise correlated noise keeps low: it is for that, and behind it. Under a
    constant learning rate it is SGD with heavy-ball (Nesterov) momentum, step by step.
    With a schedule it is not: the learning rate of today is that of all gradients.

    Args:
      learning_rate: a number or an optax schedule.
      momentum: m, in [0, 1); 0 for none.
      nesterov: as above.

    Returns:
      An optax transformation for private gradients: it belongs behind the noise, last
      in its chain, and costs no privacy. `update` needs `params`; they must be what the
      updates before have made of the start.

    Guarantee:
      Post-processing: what is released is a function of the private gradients and of
      the start, which is public or was released before. So the parameters of all steps
      together are as private as the gradients are.

    Raises:
      ValueError: the momentum is out of range, or `update` is called without `params`.

    References:
      Kairouz, McMahan, Song, Thakkar, Thakurta and Xu (2021), Practical and private
      (deep) learning without sampling or shuffling, arXiv 2103.00039, algorithm 1 and
      its variant with momentum.

    Example:
      >>> optimizer = ftrl(0.1, momentum=0.5)
      >>> params = jnp.zeros(1)
      >>> state = optimizer.init(params)
      >>> for _ in range(2):
      ...     updates, state = optimizer.update(jnp.ones(1), state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> round(float(params[0]), 6)
      -0.25
    """
    decay = _check.non_negative("momentum", momentum)
    if decay >= 1:
        _check.fail("a number in [0, 1)", "momentum", momentum)

    def init(params: Params) -> FtrlState:
        start = jax.tree.map(jnp.asarray, params)
        zeros = jax.tree.map(_zeros, params)
        return FtrlState(jnp.zeros((), jnp.int32), start, zeros, zeros)

    def update(
        updates: ArrayTree, state: FtrlState, params: Params | None = None
    ) -> tuple[ArrayTree, FtrlState]:
        if params is None:
            _check.fail("params", "params", None)
        rate = learning_rate(state.step) if callable(learning_rate) else learning_rate
        total = jax.tree.map(lambda s, g: s + g.astype(s.dtype), state.total, updates)
        buffer = jax.tree.map(lambda v, s: decay * v + s, state.momentum, total)
        ahead = buffer
        if nesterov:
            ahead = jax.tree.map(lambda v, s: decay * v + s, buffer, total)

        def moved(w: jax.Array, start: jax.Array, v: jax.Array) -> jax.Array:
            there = start.astype(v.dtype) - rate * v
            return (there - w.astype(v.dtype)).astype(w.dtype)

        result = jax.tree.map(moved, params, state.start, ahead)
        step = optax.safe_increment(state.step)
        return result, FtrlState(step, state.start, total, buffer)

    return optax.GradientTransformation(init, update)


def _zeros(leaf: jax.Array) -> jax.Array:
    dtype = jnp.promote_types(jnp.result_type(leaf), jnp.float32)
    return jnp.zeros(jnp.shape(leaf), dtype)
