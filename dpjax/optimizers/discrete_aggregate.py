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
from dpjax.noise.discrete import discrete_gaussian_noise, rounded_variance
from dpjax.optimizers import segments
from dpjax.optimizers.aggregate import PrivateAggregateState, public_divisor
from dpjax.optimizers.grid import (
    checked_granularity,
    rounded_sensitivity,
    usual_granularity,
)
from dpjax.optimizers.incoming import clipped, refuse_masked
from dpjax.optimizers.settings import Settings, checked
from dpjax.types import ArrayTree, KeyLike, Params

_MOST_STEPS = 2.0**52
"""Of the grid to a value of the sum: integers up to there, and noise, are exact."""


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
    expected_batch_size: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Turn per-example gradients into a private average, with noise that is integers.

    The clipped sum is rounded to the nearest multiples of g; integers of the discrete
    Gaussian distribution are drawn on the host and added; the update is

        (round(sum_i clip(g_i) / g) + noise) g / divisor.

    It is used as `differentially_private_aggregate` is, and its `update` takes the
    same. A value of the sum that is NaN, infinite, or beyond 2^52 g is NaN in the
    update.

    Args:
      l2_norm_clip: clip norm > 0, a prefix pytree of such, or a clipping rule whose
        sensitivity is a constant. Public.
      noise_multiplier: standard deviation of the noise over the sensitivity of what is
        rounded, >= 0, a constant; 0 means no privacy.
      key: PRNG key, key data or seed; `None` draws it from the operating system when
        `init` is called. Noise is a pure function of key, step and path of the leaf.
      granularity: g, a public power of two. None takes the largest with which rounding
        adds at most 0.1 % to the sensitivity, sqrt(d) g of C for d parameters.
      expected_batch_size: the public divisor; `None` divides by the static length of
        the batch axis.

    Returns:
      An optax transformation, the first of a chain; real leaves alone. Each step calls
      the host: about 3 microseconds a parameter.

    Guarantee:
      Under add-or-remove-one the clipped sum moves by at most C, and then its integers
      by S = `rounded_sensitivity(C, g, d)` in L2 norm. Noise of a standard deviation of
      at least noise_multiplier S makes every step 1 / (2 noise_multiplier^2)-zCDP:
      `discrete_event`. No amplification by sampling is claimed: `privacy_spent` has the
      total of steps all of which may have the example. From the sum on nothing is
      rounded that is not counted, and no lattice of floats shows through the noise
      (Mironov 2012). The clipped sum itself is one of floats, as everywhere here:
      `ClippedGrads` says what that leaves out.

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

    def init(params: Params) -> DiscreteAggregateState:
        refuse_masked("params", params)
        _check.real_leaves("params", params)
        _Grid.make(settings, settings.rule.sensitivity, step, params)
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
        grid = _Grid.make(settings, grads.sensitivity, step, grads.sum)
        return _release(grads, state.private, settings, grid, like)

    return optax.GradientTransformationExtraArgs(init, update)


def noise_steps(
    sensitivity: float, noise_multiplier: float, granularity: float | None, size: int
) -> tuple[float, float]:
    """Return the step of the grid, and the noise's standard deviation in such steps.

    Args:
      sensitivity: of the clipped sum, > 0.
      noise_multiplier: as in `discrete_aggregate`, as is the next.
      granularity: a power of two, or None.
      size: number of parameters.

    >>> noise_steps(1.0, 2.0, None, 100)
    (0.0001220703125, 16404.0...)
    """
    step = usual_granularity(sensitivity, size) if granularity is None else granularity
    return step, noise_multiplier * rounded_sensitivity(sensitivity, step, size)


class _Grid(NamedTuple):
    """The step of a grid, and the noise's standard deviation in such steps."""

    step: float
    stddev: float

    @classmethod
    def make(
        cls,
        settings: Settings,
        sensitivity: Any,
        step: float | None,
        like: ArrayTree,
    ) -> "_Grid":
        if not isinstance(sensitivity, float):
            _check.fail("a constant sensitivity", "sensitivity", sensitivity)
        size = sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(like))
        multiplier = settings.noise_multiplier
        found = cls(*noise_steps(sensitivity, multiplier, step, max(size, 1)))
        if found.stddev:
            _check_stddev(found)
        return found


def _check_stddev(grid: _Grid) -> None:
    try:
        rounded_variance(grid.stddev)
    except ValueError:
        what = f"noise of 2**-40 to 2**40 steps (it has {grid.stddev:.3g})"
        _check.fail(what, "granularity", grid.step)


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
    grid: _Grid,
    like: ArrayTree | None,
) -> tuple[ArrayTree, DiscreteAggregateState]:
    """Round, add the noise, divide by the public constant, count the step."""
    divisor = public_divisor(grads, settings)
    shapes = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), grads.sum)
    noisy = jax.pure_callback(
        lambda *operands: _on_host(grid, *operands),
        shapes,
        state.key,
        state.step,
        grads.sum,
        vmap_method="sequential",
    )
    average = jax.tree.map(lambda total: total / divisor, noisy)
    if like is not None:
        average = jax.tree.map(
            lambda leaf, to: leaf.astype(jnp.result_type(to)), average, like
        )
    words = segments.settings_words(settings.noise_multiplier, 1.0)
    counted = segments.count_step(state.segments, words)
    private = PrivateAggregateState(state.key, state.step + 1, counted)
    return average, DiscreteAggregateState(private)


def _on_host(grid: _Grid, words: Any, step: Any, total: ArrayTree) -> ArrayTree:
    """Return a sum, rounded and with its noise: NumPy arrays of the sum's dtypes.

    Dividing by a power of two, rounding to the nearest integer, the sum of integers
    below 2^53 and their product with a power of two are exact in float64 and int64.
    """
    total = jax.tree.map(np.asarray, total)
    if grid.stddev:
        drawn = discrete_gaussian_noise(
            np.asarray(words), int(step), total, grid.stddev
        )
    else:
        drawn = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.int64), total)
    return jax.tree.map(lambda leaf, z: _rounded(leaf, z, grid.step), total, drawn)


def _rounded(leaf: np.ndarray, drawn: np.ndarray, step: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        near = np.rint(leaf.astype(np.float64) / step)
    fits = np.abs(near) <= _MOST_STEPS
    integers = np.where(fits, near, 0.0).astype(np.int64) + drawn
    return np.where(fits, integers * step, np.nan).astype(leaf.dtype)
