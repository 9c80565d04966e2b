"""The second half of a step: noise, optimizer, average of the parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dpjax import optimizers
from dpjax.training import spreading
from dpjax.training.placement import SINGLE, Layout
from dpjax.training.state import TrainState
from dpjax.types import Params


def make_update(
    optimizer: optax.GradientTransformation,
    ema_decay: float | None,
    layout: Layout = SINGLE,
) -> Callable[[TrainState, Any], TrainState]:
    """Return `update(state, total)`, compiled: noise, optimizer and average.

    `total` is what the chunks of a step add up to.

    Args:
      optimizer: the private optimizer: takes `ClippedGrads`.
      ema_decay: decay of the average of the parameters, or None.
      layout: where arrays are. Each device works on its part of the leaves that are
        split, their noise included, and on all of the others.
    """

    @jax.jit
    def update(state: TrainState, total: Any) -> TrainState:
        grads, bad = total
        params = spreading.keep_split(layout, state.params)
        with layout.context():
            updates, opt_state = optimizer.update(grads, state.opt_state, params)
        params = optax.apply_updates(params, updates)
        average = state.average
        if average is not None and ema_decay is not None:
            trained = optimizers.trained_params(opt_state, params)
            average = _moved_average(average, trained, ema_decay, state.steps)
        state = state._replace(
            params=params,
            opt_state=opt_state,
            average=average,
            steps=state.steps + 1,
            non_finite=state.non_finite + bad,
        )
        return spreading.keep_state(layout, state)

    return update


def _moved_average(
    average: Params, params: Params, decay: float, steps: jax.Array
) -> Params:
    """Return the average moved towards `params`.

    The decay grows to its value as (1 + t) / (10 + t), as in De et al. (2022),
    "Unlocking high-accuracy differentially private image classification", so that the
    first steps do not weigh for ever. Computed from private parameters only: free.
    """
    weight = 1 - jnp.minimum(decay, (1 + steps) / (10 + steps))
    return jax.tree.map(
        lambda a, p: a + weight * (p.astype(a.dtype) - a), average, params
    )
