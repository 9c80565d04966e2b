"""What goes from one training step to the next."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dpjax import optimizers
from dpjax.types import ArrayTree, Params


class TrainState(NamedTuple):
    """What a step takes and gives; plain arrays.

    Attributes:
      params: the parameters that gradients are taken at; `model_params` are those that
        the run is for, the same but for sharpness-aware training.
      opt_state: state of the private optimizer.
      average: exponential moving average of the parameters in float32 at least, or
        None.
      steps: steps done, int32 scalar.
      non_finite: examples so far with a loss or gradient that was not finite, int32
        scalar. Not private.
    """

    params: Params
    opt_state: ArrayTree
    average: Params | None
    steps: jax.Array
    non_finite: jax.Array


def initial_state(
    params: Params, optimizer: optax.GradientTransformation, *, averaged: bool
) -> TrainState:
    """Return the state before the first step.

    Leaves are copied and made of one fixed dtype, so that the compiled step, whose
    outputs are, is not traced again at the second step.
    """
    params = jax.tree.map(_strong, params)
    opt_state = jax.tree.map(_strong, optimizer.init(params))
    average = jax.tree.map(at_least_float32, params) if averaged else None
    zero = jnp.zeros((), jnp.int32)
    return TrainState(params, opt_state, average, zero, zero)


def _strong(leaf: Any) -> jax.Array:
    return jnp.array(leaf, dtype=jnp.result_type(leaf), copy=True)


def at_least_float32(leaf: jax.Array) -> jax.Array:
    """Return a leaf in the dtype in which it is averaged."""
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def model_params(state: TrainState) -> Params:
    """Return the parameters of the model: `trained_params` of the optimizer's state."""
    return optimizers.trained_params(state.opt_state, state.params)


def averaged_params(state: TrainState) -> Params | None:
    """Return the average in the dtypes of the parameters, or None without one."""
    if state.average is None:
        return None
    return jax.tree.map(lambda a, p: a.astype(p.dtype), state.average, state.params)
