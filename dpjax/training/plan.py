"""Everything that is decided, and checked, before the first step."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from dpjax import _files, accounting, clipping, optimizers
from dpjax.mechanism import DPSGD, DPIndividualSGD, NonPrivate
from dpjax.training import (
    budget,
    feeding,
    identity,
    memory,
    processes,
    sources,
    spreading,
)
from dpjax.training.losses import Loss
from dpjax.training.placement import Layout, layout_of
from dpjax.training.request import Request
from dpjax.training.state import TrainState, initial_state
from dpjax.training.step import make_step
from dpjax.types import ArrayTree, Params

_CHECKED_EXAMPLES = 8


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run before its first step.

    Attributes:
      request: what was asked for, with a microbatch size that is settled.
      source: the data.
      key_words: uint32, `(2,)`.
      layout: where arrays are while the run goes on.
      rows: of a chunk, on all devices together.
      state: before the first step, as it is written to a checkpoint.
      step: one step; see `step.make_step`.
      last_step: steps that the budget pays for.
      epsilon: for each logged step, epsilon by accountant.
      quoted: the epsilon that Poisson samples would have, in words that say that it is
        no guarantee, where batches are something else; None where there is none.
      ledger: what all steps spend.
      config: the object of config.json.
      private: the object of private.json.
    """

    request: Request
    source: sources.Source
    key_words: jax.Array
    layout: Layout
    rows: int
    state: TrainState
    step: Callable[..., Any]
    last_step: int
    epsilon: dict[int, dict[str, float]]
    quoted: str | None
    ledger: accounting.PrivacyLedger
    config: dict[str, Any]
    private: dict[str, Any]


def make_plan(request: Request) -> Plan:
    """Check what was asked for against the data, and derive what it implies.

    Args:
      request: what was asked for.

    Raises:
      ValueError: the data's leading axes differ or are not the mechanism's number of
        examples; or the loss is not scalar or mixes examples.
      DataError: the first records cannot be read. `MemoryBudgetError`: no microbatch
        fits.
      RunFolderError: there is no run to resume, or it has another key.
    """
    mechanism, averaged = request.mechanism, request.ema_decay is not None
    source = sources.open_source(request.data, mechanism.num_examples)
    key_words = processes.run_key(request.run_dir, request.key, resume=request.resume)
    _check_independence(request.loss, request.params, source)
    optimizer = mechanism.optimizer(request.optimizer, key_words)
    if request.is_private:
        _check_optimizer(request, optimizer)
    layout = layout_of(request.placement, request.params)
    state = initial_state(request.params, optimizer, averaged=averaged)
    state = spreading.on_host(layout, state)
    request, found = _settled(request, layout, state, source, key_words)
    loss = request.loss
    rows = feeding.num_rows(layout, mechanism.chunk_size, loss.microbatch_size)
    step = make_step(mechanism, loss, optimizer, request.ema_decay, layout)
    # Traced here, so that a loss that cannot work fails before anything is made.
    jax.eval_shape(step, state, key_words, [source.chunk_shapes(rows)])
    last_step = _last_step(request)
    return Plan(
        request=request,
        source=source,
        key_words=key_words,
        layout=layout,
        rows=rows,
        state=state,
        step=step,
        last_step=last_step,
        epsilon=_epsilon(request, last_step),
        quoted=_quoted(request, last_step),
        ledger=_ledger(request, last_step),
        config=_files.json_copy(
            identity.public_identity(request, source, layout, found)
        ),
        private=identity.private_identity(request, source, key_words),
    )


def _check_optimizer(request: Request, optimizer: optax.GradientTransformation) -> None:
    """Refuse what cannot stand behind the noise."""
    surveyed = request.mechanism.survey(request.loss.function) is not None
    if surveyed or isinstance(request.mechanism, DPIndividualSGD):
        # Raw gradients are noised twice there, or charged to budgets; whatever may
        # follow the noise of one release may follow those.
        optimizer = optimizers.privatize(request.optimizer, 1.0, 1.0, 0)
    optimizers.check_optimizer(optimizer, request.params)


def _settled(
    request: Request,
    layout: Layout,
    state: TrainState,
    source: sources.Source,
    key_words: jax.Array,
) -> tuple[Request, dict[str, Any] | None]:
    """Return the request with the microbatch size of a device, and how it was found.

    One size for all processes: that which the first has found, or has saved.
    """
    chunk_size = feeding.num_rows(layout, request.mechanism.chunk_size, None)
    chunk = source.chunk_shapes(chunk_size // layout.num_devices)
    found = processes.from_first(
        lambda: memory.settled(request, state, chunk, key_words)[1]
    )
    if found is None:
        return request, None
    loss = dataclasses.replace(request.loss, microbatch_size=found["size"])
    return dataclasses.replace(request, loss=loss, memory_budget=None), found


def _check_independence(loss: Loss, params: Params, source: sources.Source) -> None:
    """Refuse a batched loss that mixes examples; one of one example cannot."""
    count = min(_CHECKED_EXAMPLES, source.num_examples)
    if not loss.keep_batch_dim or count < 2:
        return

    def batched(params: Params, *batch: ArrayTree) -> Any:
        key = functools.partial(jax.random.key, 0)
        return loss.function(params, *loss.arguments(batch, key))

    sample = source.rows(np.arange(count))
    clipping.check_example_independence(batched, params, *sample)


def _last_step(request: Request) -> int:
    if request.max_epsilon is None or request.delta is None:
        return request.mechanism.num_steps
    return budget.affordable_steps(
        request.mechanism, request.delta, request.max_epsilon
    )


def _ledger(request: Request, last_step: int) -> accounting.PrivacyLedger:
    mechanism = request.mechanism
    if isinstance(mechanism, NonPrivate):
        return mechanism.ledger(step=last_step)
    limit = None
    if request.max_epsilon is not None and request.delta is not None:
        limit = accounting.Budget(request.max_epsilon, request.delta)
    return mechanism.ledger(step=last_step, budget=limit)


def _epsilon(request: Request, last_step: int) -> dict[int, dict[str, float]]:
    logged = budget.logged_steps(last_step, request.logging.every)
    if not request.is_private:
        infinite = dict.fromkeys(budget.ACCOUNTANTS, math.inf)
        return dict.fromkeys(logged, infinite)
    if request.delta is None:
        return {step: {} for step in logged}
    return budget.epsilon_table(request.mechanism, request.delta, logged)


def _quoted(request: Request, last_step: int) -> str | None:
    mechanism = request.mechanism
    if not isinstance(mechanism, DPSGD) or request.delta is None:
        return None
    if mechanism.is_poisson:
        return None
    return str(mechanism.epsilon_if_poisson(request.delta, step=last_step))
