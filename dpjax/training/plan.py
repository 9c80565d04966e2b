"""Everything that is decided, and checked, before the first step."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from dpjax import _check, _files, accounting, clipping, optimizers
from dpjax.mechanism import DPSGD, NonPrivate
from dpjax.training import budget, folder, identity
from dpjax.training.request import Request
from dpjax.training.step import Loss, TrainState, initial_state, make_step, rows
from dpjax.types import ArrayTree, Params

_CHECKED_EXAMPLES = 8


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run before its first step.

    Attributes:
      request: what was asked for.
      data: tuple of pytrees of NumPy arrays with leading axis `(num_examples,)`.
      key_words: uint32, `(2,)`.
      state: before the first step.
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
    data: tuple[ArrayTree, ...]
    key_words: jax.Array
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
      RunFolderError: there is no run to resume, or it has another key.
    """
    mechanism, averaged = request.mechanism, request.ema_decay is not None
    data = _host_data(request.data, mechanism.num_examples)
    key_words = folder.run_key(request.run_dir, request.key, resume=request.resume)
    _check_independence(request.loss, request.params, data)
    optimizer = mechanism.optimizer(request.optimizer, key_words)
    if request.is_private:
        _check_optimizer(request, optimizer)
    state = initial_state(request.params, optimizer, averaged=averaged)
    step = make_step(mechanism, request.loss, optimizer, request.ema_decay)
    _trace(step, state, key_words, data, mechanism.chunk_size)
    last_step = _last_step(request)
    return Plan(
        request=request,
        data=data,
        key_words=key_words,
        state=state,
        step=step,
        last_step=last_step,
        epsilon=_epsilon(request, last_step),
        quoted=_quoted(request, last_step),
        ledger=_ledger(request, last_step),
        config=_files.json_copy(identity.public_identity(request, data)),
        private=identity.private_identity(request, data, key_words),
    )


def _check_optimizer(request: Request, optimizer: optax.GradientTransformation) -> None:
    """Refuse what cannot stand behind the noise."""
    if request.mechanism.survey(request.loss.function) is not None:
        # Raw gradients are noised twice there; whatever may follow the noise of one
        # release may follow that of two.
        optimizer = optimizers.privatize(request.optimizer, 1.0, 1.0, 0)
    optimizers.check_optimizer(optimizer, request.params)


def _host_data(data: ArrayTree, num_examples: int) -> tuple[ArrayTree, ...]:
    """Return the data as a tuple of what the loss takes after the parameters."""
    batch = data if type(data) is tuple else (data,)
    found = _check.leading_axis("data", batch)
    if found != num_examples:
        expected = f"data of the mechanism's num_examples={num_examples}"
        _check.fail(expected, "its leading axis", found)
    return jax.tree.map(np.asarray, batch)


def _check_independence(loss: Loss, params: Params, data: tuple) -> None:
    """Refuse a batched loss that mixes examples; one of one example cannot."""
    count = min(_CHECKED_EXAMPLES, len(jax.tree.leaves(data)[0]))
    if not loss.keep_batch_dim or count < 2:
        return

    def batched(params: Params, *batch: ArrayTree) -> Any:
        key = functools.partial(jax.random.key, 0)
        return loss.function(params, *loss.arguments(batch, key))

    sample = rows(data, np.arange(count))
    clipping.check_example_independence(batched, params, *sample)


def _trace(
    step: Callable[..., Any], state: TrainState, words: Any, data: Any, chunk_size: int
) -> None:
    """Trace one step, so that a loss that cannot work fails before anything is made."""
    chunk = (np.zeros(chunk_size, np.int32), np.zeros(chunk_size, bool))
    jax.eval_shape(lambda state: step(state, words, data, [chunk])[0], state)


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
