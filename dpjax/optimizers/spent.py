"""What a run has spent, read off the state of its optimizer on the host."""

from collections.abc import Callable
from typing import Any, NamedTuple

import dp_accounting
import jax
import numpy as np
import optax

from dpjax import _check, accounting
from dpjax.optimizers import segments
from dpjax.optimizers.aggregate import PrivateAggregateState
from dpjax.optimizers.discrete_aggregate import DiscreteAggregateState, discrete_event
from dpjax.types import ArrayTree


class PrivacySpent(NamedTuple):
    """A privacy statement under add-or-remove-one.

    Attributes:
      epsilon: nats.
      delta: the delta that it was asked for.
      steps: private steps that were counted.
      method: how epsilon was computed.
    """

    epsilon: float
    delta: float
    steps: int
    method: str


def privacy_spent(
    opt_state: ArrayTree, delta: float, *, accountant: str = "exact"
) -> PrivacySpent:
    """Return the epsilon of all steps that an optimizer's state has counted.

    The state is found anywhere in a chain. The result is a function of its integer
    counters, right after any number of steps; nothing was accumulated in floats.

    Args:
      opt_state: concrete state of a private optimizer of this library.
      delta: in [0, 1).
      accountant: "exact", "pld" or "rdp".

    Returns:
      `PrivacySpent(epsilon, delta, steps, method)`.

    Guarantee:
      The steps are (epsilon, delta)-DP under add-or-remove-one, if every step's batch
      was drawn by Poisson sampling with the `sampling_prob` that the optimizer was
      given. Without it nothing is amplified, and for any batches in which an example
      comes at most `max_copies` times they are so for neighbours of which one has, in
      its place, an example that contributes nothing. Assumed is an optimizer that
      `check_optimizer` takes: of what comes before the noise, its state says nothing.

    Raises:
      ValueError: no private state, several of them (on one batch they have no sum), a
        state behind an accumulation of per-example gradients, states of several runs
        stacked in one, or counters that do not agree with the step.
      TypeError: a traced state.
    """
    state = the_private_state(opt_state)
    if any(map(_check.is_traced, jax.tree.leaves(state))):
        raise TypeError(
            "Expected a concrete state, got one that is traced. Call privacy_spent "
            "outside of jit."
        )
    if np.ndim(state.step):
        raise ValueError(
            "Expected the state of one run, got states of runs that are stacked, of "
            f"shape {np.shape(state.step)}. Take one of them at a time."
        )
    rows = segments.read(segments.Segments(*state.segments))
    steps = sum(row.steps for row in rows)
    if steps != int(np.asarray(state.step)):
        raise ValueError(
            "Expected segment counters that add up to the step, got "
            f"steps={steps} and step={int(np.asarray(state.step))}."
        )
    one = discrete_event if _is_discrete(opt_state) else dp_accounting.GaussianDpEvent
    event = dp_accounting.ComposedDpEvent([_event(row, one) for row in rows])
    epsilon = accounting.event_epsilon(event, delta, accountant=accountant)
    return PrivacySpent(float(epsilon), float(delta), steps, epsilon.method)


def the_private_state(opt_state: ArrayTree) -> PrivateAggregateState:
    """Return the one private state in an optimizer's state, or raise."""
    found = _private_states(opt_state)
    if len(found) != 1:
        raise ValueError(
            "Expected exactly one private transformation, got "
            f"{len(found)} in a state of structure {jax.tree.structure(opt_state)}. "
            "Several on one batch have no sum; none means that no noise was added, or "
            "that a checkpoint was restored without its types."
        )
    _refuse_accumulation(opt_state)
    return found[0]


def _refuse_accumulation(opt_state: ArrayTree) -> None:
    """Raise where per-example gradients are summed over calls before the noise."""
    wrappers = (
        optax.MultiStepsState,
        optax.ApplyEvery,
        optax.ApplyIfFiniteState,
        optax.ConditionallyMaskState,
        optax.ConditionallyTransformState,
    )
    seen_accumulator = False
    nodes = jax.tree.leaves(
        opt_state, is_leaf=lambda n: isinstance(n, (*wrappers, PrivateAggregateState))
    )
    for node in nodes:
        if isinstance(node, PrivateAggregateState):
            if seen_accumulator:
                _refuse("apply_every")
        elif isinstance(node, optax.ApplyEvery):
            seen_accumulator = True
        elif isinstance(node, wrappers) and _private_states(node):
            _refuse(type(node).__name__.removesuffix("State"))


def _refuse(name: str) -> None:
    raise ValueError(
        f"Expected the private transformation to see every batch first, got {name} "
        "before the noise: it adds up, or chooses by, per-example gradients of "
        "different batches. Put it inside, as privatize(optimizer, ...), or add up "
        "ClippedGrads before one update."
    )


def _private_states(node: Any) -> list[PrivateAggregateState]:
    def is_state(leaf: Any) -> bool:
        return isinstance(leaf, PrivateAggregateState)

    return [leaf for leaf in jax.tree.leaves(node, is_leaf=is_state) if is_state(leaf)]


def _is_discrete(opt_state: ArrayTree) -> bool:
    """Tell whether the one private state is that of steps with discrete noise."""

    def is_discrete(leaf: Any) -> bool:
        return isinstance(leaf, DiscreteAggregateState)

    return any(map(is_discrete, jax.tree.leaves(opt_state, is_leaf=is_discrete)))


def _event(
    row: segments.Segment, one: Callable[[float], dp_accounting.DpEvent]
) -> dp_accounting.DpEvent:
    step = one(row.noise_multiplier)
    if row.sampling_prob < 1:
        step = dp_accounting.PoissonSampledDpEvent(row.sampling_prob, step)
    return dp_accounting.SelfComposedDpEvent(step, row.steps)
