"""Gradients taken a little uphill, along what was released before: DP-SAT."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dpjax import _check
from dpjax.optimizers.states import states_of, the_state
from dpjax.types import ArrayTree, Params


class SharpnessAwareState(NamedTuple):
    """State of sharpness-aware training.

    Attributes:
      centre: the parameters that are trained, float32 at least. The caller's are a step
        uphill from these.
      inner: state of the optimizer inside.
    """

    centre: Params
    inner: ArrayTree


def sharpness_aware(
    optimizer: optax.GradientTransformation, radius: float
) -> optax.GradientTransformationExtraArgs:
    """Let an optimizer see gradients taken uphill, in the direction of the last one.

    With w the parameters that are trained and g the last private average, gradients are
    taken at

        w + radius * g / |g|

    which is where the caller's parameters are: they are moved there with each update.
    Sharp minima, whose neighbourhood is high, are left so. Where sharpness-aware
    minimisation takes a second gradient of the batch to find the direction, and pays
    for it in privacy, the last released one costs nothing.

    Args:
      optimizer: a plain optax optimizer, which moves w.
      radius: in the units of parameters, >= 0; 0 is the optimizer alone. Public.

    Returns:
      An optax transformation for private averages: it belongs behind the noise, last in
      its chain, as `optimizer` of `fit` or `privatize`. `update` needs `params`; they
      must be what the updates before have made of the start. What is to be evaluated
      and kept is w: `trained_params` finds it in the state.

    Guarantee:
      Post-processing. At each step, where the gradient is taken is a function of the
      start and of averages that were released before; given those, the step is the same
      Gaussian mechanism as anywhere else, and w is a function of all averages. So the
      account of the steps, each given the outputs before it, covers w and the points
      where gradients were taken, and nothing is to be added.

    Raises:
      ValueError: the radius is below 0, or `update` is called without `params`.

    References:
      Park, Kim, Choi and Lee (2023), Differentially private sharpness-aware training
      (DP-SAT), algorithm 1; Foret, Kleiner, Mobahi and Neyshabur (2021), arXiv
      2010.01412, for sharpness-aware minimisation.

    Example:
      >>> optimizer = sharpness_aware(optax.sgd(0.1), radius=0.5)
      >>> params = jnp.zeros(2)
      >>> state = optimizer.init(params)
      >>> updates, state = optimizer.update(jnp.array([3.0, 4.0]), state, params)
      >>> params = optax.apply_updates(params, updates)
      >>> [round(float(p), 3) for p in trained_params(state)]
      [-0.3, -0.4]
      >>> [round(float(p), 3) for p in params]  # and from there uphill
      [0.0, 0.0]
    """
    distance = _check.non_negative("radius", radius)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Params) -> SharpnessAwareState:
        centre = jax.tree.map(_wide, params)
        return SharpnessAwareState(centre, inner.init(params))

    def update(
        updates: ArrayTree,
        state: SharpnessAwareState,
        params: Params | None = None,
        **extra_args: Any,
    ) -> tuple[ArrayTree, SharpnessAwareState]:
        if params is None:
            _check.fail("the parameters", "params", params)
        here = _like(state.centre, params)
        moves, inner_state = inner.update(updates, state.inner, here, **extra_args)
        centre = jax.tree.map(lambda w, m: w + m.astype(w.dtype), state.centre, moves)
        squares = (jnp.sum(jnp.abs(_wide(g)) ** 2) for g in jax.tree.leaves(updates))
        norm = jnp.sqrt(sum(squares))
        # A release of zeros has no direction.
        scale = distance / jnp.where(norm > 0, norm, 1)
        steps = jax.tree.map(
            lambda w, g, p: (w + scale * _wide(g)).astype(p.dtype) - p,
            centre,
            updates,
            params,
        )
        return steps, SharpnessAwareState(centre, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def trained_params(opt_state: ArrayTree, params: Params | None = None) -> Params:
    """Return the parameters that `sharpness_aware` trains, from anywhere in a chain.

    Args:
      opt_state: state of an optimizer.
      params: those that gradients are taken at. They are what is returned where the
        optimizer has no sharpness-aware state; where it has, their dtypes are taken.

    Raises:
      ValueError: there is no such state, and no `params`; or there are several.
    """
    if params is None:
        return the_state(opt_state, SharpnessAwareState).centre
    if not states_of(opt_state, SharpnessAwareState):
        return params
    return _like(the_state(opt_state, SharpnessAwareState).centre, params)


def _wide(leaf: jax.Array) -> jax.Array:
    return jnp.asarray(leaf, jnp.promote_types(jnp.result_type(leaf), jnp.float32))


def _like(tree: ArrayTree, like: ArrayTree) -> ArrayTree:
    return jax.tree.map(lambda leaf, to: leaf.astype(to.dtype), tree, like)
