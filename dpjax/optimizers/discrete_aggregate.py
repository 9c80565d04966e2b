"""The private step with discrete Gaussian noise on a grid, for optax."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpjax import _check, clipping, noise
from dpjax.optimizers import segments
from dpjax.optimizers.aggregate import (
    PrivateAggregateState,
    in_dtypes_of,
    public_divisor,
)
from dpjax.optimizers.grid import checked_granularity
from dpjax.optimizers.grid_noise import Grid
from dpjax.optimizers.incoming import clipped, refuse_masked
from dpjax.optimizers.settings import Settings, checked
from dpjax.types import ArrayTree, KeyLike, Params

ROUNDINGS = ("sum", "examples")
"""What is rounded to the grid."""


class DiscreteAggregateState(NamedTuple):
    """State of the private step with discrete noise: plain arrays.

    Attributes:
      private: key, step, and the noise multipliers of the steps. These are of discrete
        noise: `discrete_event` has what each costs.
    """

    private: PrivateAggregateState


def discrete_event(noise_multiplier: float) -> dp_accounting.DpEvent:
    """Return what one step with discrete noise spends: 1 / (2 z^2)-zCDP.

    >>> discrete_event(1.0)
    ZCDpEvent(rho=0.5, xi=0.0)
    """
    z = _check.non_negative("noise_multiplier", noise_multiplier)
    if z < 1e-100:
        return dp_accounting.NonPrivateDpEvent()
    return dp_accounting.ZCDpEvent(0.5 / z**2)


def discrete_aggregate(
    l2_norm_clip: Any,
    noise_multiplier: float,
    key: KeyLike | None = None,
    *,
    granularity: float | None = None,
    rounding: str = "sum",
    expected_batch_size: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Turn per-example gradients into a private average, with noise that is integers.

    The clipped sum is rounded to the nearest multiples of g; integers of the discrete
    Gaussian distribution are drawn on the host and added; the update is

        (round(sum_i clip(g_i) / g) + noise) g / divisor.

    It is used as `differentially_private_aggregate` is, and its `update` takes the
    same. A value of the sum that is beyond 2^52 g counts as 2^52 g; NaN, which no
    clipped sum has, stays NaN.

    | rounding   | what is rounded                 | it adds to C         |
    | ---------- | ------------------------------- | -------------------- |
    | "sum"      | the clipped sum, here           | at most sqrt(d) g    |
    | "examples" | each example, by `rounded_grad` | at most sqrt(d) g/2  |

    Args:
      l2_norm_clip: clip norm > 0, a prefix pytree of such, or a clipping rule whose
        sensitivity is a constant. Public.
      noise_multiplier: standard deviation of the noise over the sensitivity of what is
        rounded, >= 0, a constant; 0 means no privacy.
      key: PRNG key, key data or seed; `None` draws it from the operating system when
        `init` is called. Noise is a pure function of key, step and path of the leaf.
      granularity: g, a public power of two. None takes the largest with which rounding
        the sum adds at most 0.1 % to the sensitivity for d parameters.
      rounding: "sum", or "examples" where `update` is given the `ClippedGrads` of
        `rounded_grad` with the same granularity, which is needed then. Values that are
        not on the grid are NaN in the update; per-example gradients, which are summed
        here, are taken as with "sum".
      expected_batch_size: the public divisor; `None` divides by the static length of
        the batch axis.

    Returns:
      An optax transformation, the first of a chain; real leaves alone. Each step calls
      the host: about 3 microseconds a parameter. Over a mesh the whole sum comes to one
      device for it.

    Guarantee:
      Under add-or-remove-one the clipped sum moves by at most C, and then its integers
      by S = `rounded_sensitivity(C, g, d)` in L2 norm. Noise of scale noise_multiplier
      S at least makes every step 1 / (2 noise_multiplier^2)-zCDP: `discrete_event`. No
      amplification by sampling is claimed: `privacy_spent` has the total of steps all
      of which may have the example. From the sum on nothing is rounded that is not
      counted, and no lattice of floats shows through the noise (Mironov 2012). With
      "sum", the clipped sum itself is one of floats, as everywhere here: `ClippedGrads`
      says what that leaves out. With "examples" nothing is left out: sums are exact.

    Raises:
      ValueError: settings out of range, no power of two, a grid of more than 2^40 steps
        to the noise, what `differentially_private_aggregate` refuses.
      TypeError: arguments of the wrong type or traced, complex parameters, `key=None`
        under a trace.

    References:
      Canonne, Kamath and Steinke (2020), The discrete Gaussian for differential
      privacy, arXiv 2004.00010, theorem 14.

    Example:
      >>> optimizer = optax.chain(
      ...     discrete_aggregate(1.0, 1.0, key=0, granularity=2.0**-10), optax.sgd(0.1))
      >>> params = jnp.zeros(2)
      >>> updates, state = optimizer.update(
      ...     jnp.array([[3.0, 4.0], [0.0, 2.0]]), optimizer.init(params), params)
      >>> updates.shape, int(state[0].private.step)
      ((2,), 1)
    """
    settings = _constants(l2_norm_clip, noise_multiplier, expected_batch_size)
    step = None if granularity is None else checked_granularity(granularity)
    by_example = _check.choice("rounding", rounding, ROUNDINGS) == "examples"
    if by_example and step is None:
        _check.fail("a granularity with rounding='examples'", "granularity", None)

    def init(params: Params) -> DiscreteAggregateState:
        refuse_masked("params", params)
        _check.real_leaves("params", params)
        sensitivity = settings.rule.sensitivity
        _grid(settings, sensitivity, step, params, by_example)
        if key is None and any(map(_check.is_traced, jax.tree.leaves(params))):
            _check.fail("an explicit key when init is traced", "key", None, TypeError)
        data = noise.key_data(key)
        private = PrivateAggregateState(data, jnp.uint32(0), segments.empty())
        return DiscreteAggregateState(private)

    def update(
        updates: Any,
        state: DiscreteAggregateState,
        params: Params | None = None,
        *,
        loss_fn: Callable | None = None,
        batch: Any = None,
        mask: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[ArrayTree, DiscreteAggregateState]:
        del extra_args  # meant for other members of a chain
        grads, like = clipped(updates, params, settings.rule, loss_fn, batch, mask)
        _check.real_leaves("updates.sum", grads.sum)
        rounded = by_example and isinstance(updates, clipping.ClippedGrads)
        grid = _grid(settings, grads.sensitivity, step, grads.sum, rounded)
        return _release(grads, state.private, settings, grid, like)

    return optax.GradientTransformationExtraArgs(init, update)


def _grid(
    settings: Settings,
    sensitivity: Any,
    step: float | None,
    like: ArrayTree,
    rounded: bool,
) -> Grid:
    """Return the grid of a step and the noise on it."""
    if not isinstance(sensitivity, float):
        _check.fail("a constant sensitivity", "sensitivity", sensitivity)
    size = sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(like))
    z = float(settings.noise_multiplier)
    return Grid.of(sensitivity, z, step, max(size, 1), rounded=rounded)


def _constants(l2_norm_clip: Any, noise_multiplier: Any, size: Any) -> Settings:
    """Return the settings, of which noise and sensitivity are to be constants."""
    settings = checked(l2_norm_clip, noise_multiplier, size, None, max_copies=1)
    if not isinstance(settings.noise_multiplier, float):
        _check.fail("a constant", "noise_multiplier", noise_multiplier, TypeError)
    sensitivity = settings.rule.sensitivity
    if not isinstance(sensitivity, float) or not math.isfinite(sensitivity):
        _check.fail("a constant, finite clip norm", "l2_norm_clip", l2_norm_clip)
    return settings


def _release(
    grads: clipping.ClippedGrads,
    state: PrivateAggregateState,
    settings: Settings,
    grid: Grid,
    like: ArrayTree | None,
) -> tuple[ArrayTree, DiscreteAggregateState]:
    """Round, add the noise, divide by the public constant, count the step."""
    divisor = public_divisor(grads, settings)
    noisy = _noised(grid, state.key, state.step, grads.sum)
    average = jax.tree.map(lambda total: total / divisor, noisy)
    words = segments.settings_words(settings.noise_multiplier, 1.0)
    counted = segments.count_step(state.segments, words)
    private = PrivateAggregateState(state.key, state.step + 1, counted)
    return in_dtypes_of(average, like), DiscreteAggregateState(private)


def _noised(grid: Grid, key: jax.Array, step: jax.Array, total: ArrayTree) -> ArrayTree:
    """Return the sum with noise, which the host draws."""
    if not any(map(_check.is_traced, jax.tree.leaves((key, step, total)))):
        # This is the host; and XLA knows of no mesh here that it could call from.
        total = jax.tree.map(jnp.asarray, total)
        found = grid.noised(key, step, total)
        places = jax.tree.map(lambda leaf: leaf.sharding, total)
        return jax.device_put(found, places)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), total
    )
    return jax.pure_callback(
        grid.noised, shapes, key, step, total, vmap_method="sequential"
    )
