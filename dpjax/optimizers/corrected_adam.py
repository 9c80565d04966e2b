"""Adam whose second moment is that of the gradients, not of the noise."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dpjax import _check
from dpjax.types import ArrayTree, Params


class CorrectedAdamState(NamedTuple):
    """State of the corrected Adam.

    Attributes:
      step: int32, steps taken.
      mu: first moments, shaped like the parameters.
      nu: second moments, of the noise too.
    """

    step: jax.Array
    mu: ArrayTree
    nu: ArrayTree


def scale_by_corrected_adam(
    noise_stddev: float,
    b1: float = 0.9,
    b2: float = 0.999,
    *,
    floor: float | None = None,
) -> optax.GradientTransformation:
    """Scale private averages by Adam's rule, the noise's variance taken off.

    The second moment of a private average is that of the average plus s^2, with s the
    standard deviation of its noise. Where s is the larger part, as it mostly is, Adam
    divides by a constant and is SGD with momentum. Here the update is

        m / sqrt(max(v - s^2, floor))

    with both moments corrected for their start at zero.

    Args:
      noise_stddev: s >= 0, of one value of the average: `DPSGD.noise_stddev`, or noise
        multiplier * sensitivity / divisor. Public.
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second, in [0, 1).
      floor: least second moment, > 0. None takes the standard error of v itself where
        there is nothing but noise, s^2 sqrt(2 (1 - b2) / (1 + b2)): a smaller moment
        cannot be told from none. It must be given where s is 0.

    Returns:
      An optax transformation for private averages: it belongs behind the noise, as
      `optimizer` of `fit` or `privatize`, and costs no privacy.

    Raises:
      ValueError: a setting out of range, or no floor where there is no noise.

    References:
      Tang, Shpilevskiy and Lecuyer (2024), DP-AdamBC: your DP-Adam is actually DP-SGD
      (unless you apply bias correction).

    Example:
      >>> adam = scale_by_corrected_adam(0.1)
      >>> state = adam.init(jnp.zeros(2))
      >>> updates, state = adam.update(jnp.array([0.5, -0.5]), state)
      >>> [round(float(u), 3) for u in updates]
      [1.021, -1.021]
    """
    noise = _check.non_negative("noise_stddev", noise_stddev)
    b1, b2 = _decay("b1", b1), _decay("b2", b2)
    if floor is None:
        if noise == 0:
            _check.fail("a floor where there is no noise", "floor", floor)
        floor = noise**2 * math.sqrt(2 * (1 - b2) / (1 + b2))
    least = _check.positive("floor", floor)

    def init(params: Params) -> CorrectedAdamState:
        zeros = jax.tree.map(_zeros, params)
        return CorrectedAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(
        updates: ArrayTree, state: CorrectedAdamState, params: Params | None = None
    ) -> tuple[ArrayTree, CorrectedAdamState]:
        del params
        step = optax.safe_increment(state.step)
        mu = _averaged(state.mu, updates, b1, 1)
        nu = _averaged(state.nu, updates, b2, 2)
        m_share, v_share = (1 - jnp.float32(b) ** step for b in (b1, b2))

        def scaled(m: jax.Array, v: jax.Array, like: jax.Array) -> jax.Array:
            moment = jnp.maximum(v / v_share - noise**2, least)
            return (m / m_share / jnp.sqrt(moment)).astype(like.dtype)

        scale = jax.tree.map(scaled, mu, nu, updates)
        return scale, CorrectedAdamState(step, mu, nu)

    return optax.GradientTransformation(init, update)


def corrected_adam(
    learning_rate: optax.ScalarOrSchedule,
    noise_stddev: float,
    b1: float = 0.9,
    b2: float = 0.999,
    *,
    floor: float | None = None,
) -> optax.GradientTransformation:
    """Return `scale_by_corrected_adam` with a learning rate: DP-AdamBC."""
    return optax.chain(
        scale_by_corrected_adam(noise_stddev, b1, b2, floor=floor),
        optax.scale_by_learning_rate(learning_rate),
    )


def _decay(name: str, value: float) -> float:
    value = _check.non_negative(name, value)
    if value >= 1:
        _check.fail("a number in [0, 1)", name, value)
    return value


def _zeros(leaf: jax.Array) -> jax.Array:
    return jnp.zeros(jnp.shape(leaf), _working(leaf))


def _working(leaf: jax.Array) -> jnp.dtype:
    return jnp.promote_types(jnp.result_type(leaf), jnp.float32)


def _averaged(
    moments: ArrayTree, updates: ArrayTree, decay: float, power: int
) -> ArrayTree:
    """Return the moving averages of a power of the updates."""
    return jax.tree.map(
        lambda old, g: decay * old + (1 - decay) * g.astype(old.dtype) ** power,
        moments,
        updates,
    )
