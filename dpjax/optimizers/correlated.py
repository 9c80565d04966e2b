"""The private step with noise that is correlated over steps, for optax."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpjax import _check, clipping
from dpjax.noise import correlated
from dpjax.optimizers import segments
from dpjax.optimizers.aggregate import (
    PrivateAggregateState,
    in_dtypes_of,
    public_divisor,
)
from dpjax.optimizers.incoming import clipped, refuse_masked
from dpjax.optimizers.settings import Settings, checked
from dpjax.types import ArrayTree, KeyLike, Params


class CorrelatedAggregateState(NamedTuple):
    """State of the private step with correlated noise: plain arrays.

    Attributes:
      private: key, step, and what was spent: as without correlation.
      buffers: noise of earlier steps, as the strategy remembers it. Whoever reads it
        can take noise off again: as secret as the key.
    """

    private: PrivateAggregateState
    buffers: ArrayTree


class _Plan(NamedTuple):
    """What is constant over the steps of a run with correlated noise.

    Attributes:
      strategy: how noise is correlated.
      num_steps: all steps of the run; none may follow.
      stddev: of the draws Z, in noise multipliers and sensitivities of the sum.
      period: every so many steps, one event is spent; the first at step 0.
    """

    strategy: correlated.Strategy
    num_steps: int
    stddev: float
    period: int


def correlated_aggregate(
    l2_norm_clip: Any,
    noise_multiplier: float,
    strategy: correlated.Strategy,
    key: KeyLike | None = None,
    *,
    num_steps: int,
    participation: correlated.Participation,
    expected_batch_size: float | None = None,
    sampling_prob: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Turn per-example gradients into private averages whose noise cancels in sums.

    The update of step t is (sum_i clip(g_i) + sigma (M Z)_t) / divisor, with Z of
    independent standard normal rows, M the inverse of the strategy's C, and

        sigma = noise_multiplier * sensitivity of the sum * sensitivity of C,

    that of C under the participation. It is used as `differentially_private_aggregate`
    is, and its `update` takes the same.

    Args:
      l2_norm_clip: clip norm > 0, a prefix pytree of such, or a clipping rule whose
        sensitivity is a constant. Public.
      noise_multiplier: of the whole run (with `sampling_prob`, of each participation),
        >= 0: that of its Gaussian event. A constant: rows of noise of different scales
        would not cancel.
      strategy: how noise is correlated.
      key: PRNG key, key data or seed; `None` draws it from the operating system when
        `init` is called.
      num_steps: all steps of the run. A step beyond them is an error where the step is
        concrete; under jit its update is NaN.
      participation: at which steps one example can take part. It is for the caller to
        draw batches so: `DPMatrixFactorization` does both.
      expected_batch_size: the public divisor; `None` divides by the static length of
        the batch axis.
      sampling_prob: with `Cyclic` participation, the probability of Poisson sampling
        with which an example of a step's group enters its batch. Needs a strategy of at
        most as many bands as the period has steps.

    Returns:
      An optax transformation, the first of a chain.

    Guarantee:
      For neighbours of which one has, in an example's place, one that contributes
      nothing, where an example takes part as `participation` says: all updates together
      are a Gaussian mechanism of `noise_multiplier`, and so is any part of them, though
      gradients depend on earlier updates. With `sampling_prob` they are ceil(num_steps
      / period) Poisson-sampled ones. `privacy_spent` has the total: without sampling
      all of it from the first step on.

    Raises:
      ValueError: settings out of range; a sensitivity that is traced; more bands than
        sampling allows; what `differentially_private_aggregate` refuses.
      TypeError: arguments of the wrong type, `key=None` under a trace.

    References:
      Denisov et al. (2022), arXiv 2202.08312, theorem 2.1; Choquette-Choo et al.
      (2023), arXiv 2306.08153, theorem 4.

    Example:
      >>> optimizer = optax.chain(
      ...     correlated_aggregate(
      ...         1.0, 1.0, correlated.BinaryTree(), key=0, num_steps=8,
      ...         participation=correlated.ONCE),
      ...     optax.sgd(0.1))
      >>> params = jnp.zeros(2)
      >>> updates, state = optimizer.update(
      ...     jnp.array([[3.0, 4.0], [0.0, 2.0]]), optimizer.init(params), params)
      >>> updates.shape, int(state[0].private.step)
      ((2,), 1)
    """
    settings = checked(
        l2_norm_clip, noise_multiplier, expected_batch_size, sampling_prob, 1
    )
    plan = _plan(settings, strategy, num_steps, participation)

    def init(params: Params) -> CorrelatedAggregateState:
        refuse_masked("params", params)
        _check.float_leaves("params", params)
        if key is None and any(map(_check.is_traced, jax.tree.leaves(params))):
            _check.fail("an explicit key when init is traced", "key", None, TypeError)
        data, step, buffers = correlated.init_correlated_noise(
            strategy, key, params, num_steps=plan.num_steps
        )
        private = PrivateAggregateState(data, step, segments.empty())
        return CorrelatedAggregateState(private, buffers)

    def update(
        updates: Any,
        state: CorrelatedAggregateState,
        params: Params | None = None,
        *,
        loss_fn: Callable | None = None,
        batch: Any = None,
        mask: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[ArrayTree, CorrelatedAggregateState]:
        del extra_args  # meant for other members of a chain
        grads, like = clipped(updates, params, settings.rule, loss_fn, batch, mask)
        return _release(grads, state, settings, plan, like)

    return optax.GradientTransformationExtraArgs(init, update)


def _plan(
    settings: Settings,
    strategy: correlated.Strategy,
    num_steps: int,
    participation: correlated.Participation,
) -> _Plan:
    """Return the constants of a run, with the sensitivity of C in them."""
    if not isinstance(settings.noise_multiplier, float):
        multiplier = settings.noise_multiplier
        _check.fail("a constant", "noise_multiplier", multiplier, TypeError)
    if not isinstance(settings.rule.sensitivity, float):
        _check.fail("a constant", "l2_norm_clip", settings.rule)
    found = correlated.sensitivity(strategy, num_steps, participation)
    if settings.sampling_prob is None:
        scale, period = found.value, num_steps
    elif isinstance(participation, correlated.Cyclic):
        period = participation.period
        scale = correlated.separate_sensitivity(strategy, num_steps, period)
    else:
        what = "Cyclic participation with sampling_prob"
        _check.fail(what, "participation", participation)
    return _Plan(strategy, num_steps, settings.noise_multiplier * scale, period)


def _release(
    grads: clipping.ClippedGrads,
    state: CorrelatedAggregateState,
    settings: Settings,
    plan: _Plan,
    like: ArrayTree | None,
) -> tuple[ArrayTree, CorrelatedAggregateState]:
    """Add the noise, divide by the public constant, count the step."""
    if not isinstance(grads.sensitivity, float):
        _check.fail("a constant sensitivity", "sensitivity", grads.sensitivity)
    divisor = public_divisor(grads, settings)
    key, step, counters = state.private
    rows, after = correlated.correlated_noise(
        plan.strategy,
        correlated.CorrelatedNoiseState(key, step, state.buffers),
        grads.sum,
        plan.stddev * grads.sensitivity,
        num_steps=plan.num_steps,
    )
    average = jax.tree.map(lambda total, z: (total + z) / divisor, grads.sum, rows)
    counted = segments.count_step(counters, _spent_words(step, settings, plan.period))
    private = PrivateAggregateState(key, after.step, counted)
    return in_dtypes_of(average, like), CorrelatedAggregateState(private, after.buffers)


def _spent_words(step: jax.Array, settings: Settings, period: int) -> jax.Array:
    """Return the settings under which a step is counted.

    The first step of a period is all that the period spends; the others are counted as
    steps of endless noise, which spend nothing more.
    """
    sampling_prob = settings.sampling_prob
    spent = segments.settings_words(
        settings.noise_multiplier, 1.0 if sampling_prob is None else sampling_prob
    )
    free = segments.settings_words(math.inf, 1.0)
    return jnp.where(step % np.uint32(period) == 0, spent, free)
