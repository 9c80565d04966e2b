"""A private average of examples of which each has a budget of its own.

What a step costs an example is the square of what it adds to the sum, in clip norms.
Most add less than the clip norm, more so as they are learnt, and can stay for longer
than the worst case allows.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dpjax import _check, clipping
from dpjax.clipping import PerExample, rules
from dpjax.optimizers.aggregate import (
    PrivateAggregateState,
    differentially_private_aggregate,
)
from dpjax.optimizers.released_clip import StepGradient, raw_quantities
from dpjax.optimizers.states import the_state
from dpjax.types import ArrayTree, KeyLike, LossFn, Params

BUDGET = 2**31
"""Units in which what an example has used is counted, up to this number."""

_SLACK = 2.0**-18
"""More than float32 loses between a norm and what it costs."""


class IndividualState(NamedTuple):
    """State of the private step with a budget for each example.

    Attributes:
      private: of the average: key, step, and what was spent if each step counted whole.
      used: uint32 `(steps of an epoch, batch)`: of the example at that place, the part
        of its budget that it has used, in units of a 2^31th. Raw: NOT private, and no
        part of what is released; keep it as secret as the data.
    """

    private: PrivateAggregateState
    used: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IndividualGrads:
    """A clipped sum, and what each example has added to it.

    There is one for a whole batch: those of parts of it cannot be added.

    Attributes:
      grads: the clipped sum, without the raw quantities of examples.
      costs: float32 `(rows,)`: at least the squares of what the examples have added, in
        clip norms. Raw: not private.
      mask: booleans `(rows,)`: False marks padding, which is charged nothing.
      full_steps: m, by which the examples were clipped.
    """

    grads: clipping.ClippedGrads
    costs: jax.Array
    mask: jax.Array
    full_steps: int = dataclasses.field(metadata={"static": True})


def individual_aggregate(
    l2_norm_clip: float,
    noise_multiplier: float,
    key: KeyLike | None = None,
    *,
    full_steps: int,
    num_examples: int,
    expected_batch_size: int,
) -> optax.GradientTransformationExtraArgs:
    """Turn gradients of examples with budgets of their own into a private average.

    Batches come in a fixed order, each of `expected_batch_size` examples (the last of
    an epoch may be shorter). Over all steps, the squared norms of what one example adds
    sum up to at most m C^2, with m `full_steps` and C the clip norm: as much as m steps
    at the clip norm. What an example has left is the most that it adds to a step.

    Args:
      l2_norm_clip: C, from 2^-100 to 2^100. Public, as are all settings.
      noise_multiplier: standard deviation of the noise of a step over C, >= 0.
      key: PRNG key, key data or seed; `None` draws fresh entropy at `init`.
      full_steps: m, from 1 to 2^20.
      num_examples: of the data set.
      expected_batch_size: of a batch; the public divisor.

    Returns:
      An optax transformation, the first of a chain. `update` takes `IndividualGrads`,
      from `individual_gradient` with the same settings, and nothing else; so
      `check_optimizer`, which gives it gradients, refuses it.

    Guarantee:
      Of two data sets of which one has, in an example's place, one that adds nothing,
      the outputs of any number of steps are those of one Gaussian release of noise
      multiplier z / sqrt(m), or closer. For given what was released before, they
      differ in a step by what the example adds to it, which is known from the example
      and what was released; and the squares of that keep to a total on every course of
      the run (Koskela et al. 2023, theorem on filters; Smith and Thakurta 2022).

    Raises:
      ValueError: a setting out of range, or gradients of other settings.
      TypeError: gradients that are no `IndividualGrads`.

    References:
      Koskela, Tobaben and Honkela (2023), Individual privacy accounting with Gaussian
      differential privacy, arXiv 2209.15596; Feldman and Zrnic (2021), arXiv
      2008.11193; Smith and Thakurta (2022), arXiv 2210.17520.
    """
    clip_norm = checked_clip_norm(l2_norm_clip)
    full = checked_full_steps(full_steps)
    batch = _check.integer("expected_batch_size", expected_batch_size, minimum=1)
    count = _check.integer("num_examples", num_examples, minimum=batch)
    plain = differentially_private_aggregate(
        clip_norm, noise_multiplier, key, expected_batch_size=batch
    )

    def init(params: Params) -> IndividualState:
        used = jnp.zeros((math.ceil(count / batch), batch), jnp.uint32)
        return IndividualState(plain.init(params), used)

    def update(
        updates: Any,
        state: IndividualState,
        params: Params | None = None,
        **extra_args: Any,
    ) -> tuple[ArrayTree, IndividualState]:
        del extra_args  # meant for other members of a chain
        _check_grads(updates, batch, full)
        row = _row(state)
        charged = _charged(state.used[row], updates, full)
        average, private = plain.update(updates.grads, state.private, params)
        return average, IndividualState(private, state.used.at[row].set(charged))

    return optax.GradientTransformationExtraArgs(init, update)


def individual_gradient(
    loss_fn: LossFn, l2_norm_clip: float, full_steps: int, **options: Any
) -> StepGradient:
    """Return the gradient of a whole batch, each example clipped to what it has left.

    Args:
      loss_fn: the loss of one example.
      l2_norm_clip: C, from 2^-100 to 2^100.
      full_steps: m, as in `individual_aggregate`.
      options: of `clipping.clipped_grad`.
    """
    clip_norm = checked_clip_norm(l2_norm_clip)
    full = checked_full_steps(full_steps)
    clipped_grad = clipping.clipped_grad(loss_fn, clip_norm, **options)

    def gradient(
        opt_state: ArrayTree, params: Params, *batch: Any, mask: Any
    ) -> tuple[IndividualGrads, PerExample]:
        state = the_state(opt_state, IndividualState)
        size = _check.leading_axis("batch", batch)
        shares = _shares(_in_rows(state.used[_row(state)], size), full)
        rule = rules.IndividualClip(clip_norm, shares)
        grads = clipped_grad(params, *batch, mask=mask, l2_norm_clip=rule)
        real = jnp.ones(size, bool) if mask is None else jnp.asarray(mask)
        assert grads.per_example is not None
        bound = grads.per_example.grad_norm_bound
        assert bound is not None
        # A norm that is not finite adds nothing, and counts for what it might add.
        added = jnp.where(bound <= shares * clip_norm, bound / clip_norm, shares)
        costs = jnp.square(jnp.asarray(added, jnp.float32))
        summed = grads.without_per_example()
        return IndividualGrads(summed, costs, real, full), raw_quantities(grads)

    return gradient


def checked_clip_norm(l2_norm_clip: Any) -> float:
    """Return a clip norm, a number of which float32 holds shares and quotients."""
    clip_norm = _check.positive("l2_norm_clip", l2_norm_clip)
    return float(rules.individual_clip_norm(clip_norm))


def checked_full_steps(full_steps: int) -> int:
    """Return the number of steps at the clip norm that an example can pay for."""
    full = _check.integer("full_steps", full_steps, minimum=1)
    if full > 2**20:
        _check.fail("at most 2^20", "full_steps", full)
    return full


def _check_grads(grads: Any, batch: int, full_steps: int) -> None:
    if not isinstance(grads, IndividualGrads):
        expected = "IndividualGrads, from DPIndividualSGD.step_gradient"
        _check.fail(expected, "type(updates)", type(grads).__name__, TypeError)
    if grads.full_steps != full_steps:
        expected = f"gradients of full_steps={full_steps}"
        _check.fail(expected, "full_steps", grads.full_steps)
    shape = jnp.shape(grads.costs)
    if shape != jnp.shape(grads.mask) or len(shape) != 1 or shape[0] < batch:
        expected = f"costs and mask of {batch} rows or more"
        _check.fail(expected, "shapes", (shape, jnp.shape(grads.mask)))


def _row(state: IndividualState) -> jax.Array:
    """Return which batch of an epoch a step has."""
    return state.private.step % jnp.uint32(state.used.shape[0])


def _in_rows(used: jax.Array, size: int) -> jax.Array:
    """Return what examples have used, with as much for padding as there is."""
    if size < used.size:
        _check.fail(f"a whole batch, of {used.size} rows", "rows", size)
    return jnp.append(used, jnp.full(size - used.size, jnp.uint32(BUDGET)))


def _shares(used: jax.Array, full_steps: int) -> jax.Array:
    """Return the most that examples can pay for in a step, in clip norms: (batch,)."""
    left = (jnp.uint32(BUDGET) - used).astype(jnp.float32)
    return jnp.minimum(jnp.sqrt(left * (full_steps / BUDGET)) * (1 - _SLACK), 1)


def _charged(used: jax.Array, grads: IndividualGrads, full_steps: int) -> jax.Array:
    """Return what examples have used after a step; each pays for what it has added.

    A cost that is no number up to the whole budget takes all that is left.
    """
    size, left = used.size, jnp.uint32(BUDGET) - used
    units = jnp.ceil(grads.costs[:size] * ((1 + _SLACK) * (BUDGET / full_steps)))
    known = (units >= 0) & (units <= float(BUDGET))
    cost = jnp.maximum(jnp.where(known, units, 1), 1).astype(jnp.uint32)
    cost = jnp.where(known, jnp.minimum(cost, left), left)
    return used + jnp.where(grads.mask[:size], cost, 0)
