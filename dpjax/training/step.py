"""One training step: gradient of each chunk, sum, noise and update; compiled once.

The shapes of a chunk never change, so each of the three functions is traced once. Keys
go in as arguments: a constant would be written into the compiled program.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpjax import optimizers
from dpjax.mechanism import NonPrivate, PrivateBatches
from dpjax.noise import keys
from dpjax.training import spreading
from dpjax.training.metrics import ChunkRecord
from dpjax.training.placement import SINGLE, Layout
from dpjax.training.update import make_update
from dpjax.types import ArrayTree, LossFn, Params

_DOMAIN = "dpjax.training.loss"

_Total = tuple[Any, jax.Array]
"""What chunks add up to: gradients, and how many losses or gradients were not finite.
"""


class TrainState(NamedTuple):
    """What a step takes and gives; plain arrays.

    Attributes:
      params: the parameters that gradients are taken at; `model_params` are those that
        the run is for, the same but for sharpness-aware training.
      opt_state: state of the private optimizer.
      average: exponential moving average of the parameters in float32 at least, or
        None.
      steps: steps done, int32 scalar.
      non_finite: examples so far with a loss or gradient that was not finite, int32
        scalar. Not private.
    """

    params: Params
    opt_state: ArrayTree
    average: Params | None
    steps: jax.Array
    non_finite: jax.Array


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss function and how it is called.

    Attributes:
      function: `function(params, *example)`, with the key inserted at `prng_argnum`.
      keep_batch_dim: whether it takes a batch of one.
      prng_argnum: position of its key, or None where it takes none.
      microbatch_size: examples whose gradients are in memory at a time, or None; "auto"
        until `memory.settled` has found it.
      engine: the clipping engine.
    """

    function: LossFn
    keep_batch_dim: bool = False
    prng_argnum: int | None = None
    microbatch_size: int | str | None = None
    engine: str = "auto"

    def arguments(
        self, batch: Sequence[ArrayTree], key: Callable[[], jax.Array]
    ) -> list[ArrayTree]:
        """Return the positional arguments after `params`; `key()` where one is."""
        arguments = list(batch)
        if self.prng_argnum is not None:
            arguments.insert(self.prng_argnum - 1, key())
        return arguments

    def clipping_options(self) -> dict[str, Any]:
        """Return the options of `clipped_grad`."""
        return {
            "keep_batch_dim": self.keep_batch_dim,
            "prng_argnum": self.prng_argnum,
            "microbatch_size": self.microbatch_size,
            "engine": self.engine,
        }


def initial_state(
    params: Params, optimizer: optax.GradientTransformation, *, averaged: bool
) -> TrainState:
    """Return the state before the first step.

    Leaves are copied and made of one fixed dtype, so that the compiled step, whose
    outputs are, is not traced again at the second step.
    """
    params = jax.tree.map(_strong, params)
    opt_state = jax.tree.map(_strong, optimizer.init(params))
    average = jax.tree.map(at_least_float32, params) if averaged else None
    zero = jnp.zeros((), jnp.int32)
    return TrainState(params, opt_state, average, zero, zero)


def _strong(leaf: Any) -> jax.Array:
    return jnp.array(leaf, dtype=jnp.result_type(leaf), copy=True)


def at_least_float32(leaf: jax.Array) -> jax.Array:
    """Return a leaf in the dtype in which it is averaged."""
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def model_params(state: TrainState) -> Params:
    """Return the parameters of the model: `trained_params` of the optimizer's state."""
    return optimizers.trained_params(state.opt_state, state.params)


def averaged_params(state: TrainState) -> Params | None:
    """Return the average in the dtypes of the parameters, or None without one."""
    if state.average is None:
        return None
    return jax.tree.map(lambda a, p: a.astype(p.dtype), state.average, state.params)


def chunk_arguments(
    loss: Loss, state: TrainState, rows: Any, key_words: Any, chunk: Any
) -> list[ArrayTree]:
    """Return what the loss takes of one chunk, its key for this step among it."""

    def key() -> jax.Array:
        step = keys.step_key(key_words, _DOMAIN, state.steps)
        return jax.random.fold_in(step, chunk)

    return loss.arguments(rows, key)


def make_survey(
    mechanism: PrivateBatches | NonPrivate, loss: Loss, layout: Layout = SINGLE
) -> Callable[..., TrainState] | None:
    """Return `survey(state, key_words, batch) -> state`, or None.

    What a step releases of its batch before the gradients, where the mechanism does:
    the arguments are those of `make_step`.
    """
    survey = mechanism.survey(loss.function, **loss.clipping_options())
    if survey is None:
        return None

    @jax.jit
    def look(state: TrainState, rows: Any, mask: Any, words: Any, chunk: Any) -> Any:
        arguments = chunk_arguments(loss, state, rows, words, chunk)
        params = spreading.keep_whole(layout, state.params)
        found = survey.look(state.opt_state, params, *arguments, mask=mask)
        return spreading.keep_whole(layout, found)

    @jax.jit
    def choose(state: TrainState, looks: list[Any]) -> TrainState:
        total = jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *looks)
        chosen = state._replace(opt_state=survey.choose(state.opt_state, total))
        return spreading.keep_state(layout, chosen)

    def surveyed(state: TrainState, words: Any, batch: Sequence[Any]) -> TrainState:
        looks = [
            look(state, rows, mask, words, np.uint32(number))
            for number, (rows, mask) in enumerate(batch)
        ]
        return choose(state, looks)

    return surveyed


def make_gradient(
    mechanism: PrivateBatches | NonPrivate, loss: Loss, layout: Layout = SINGLE
) -> Callable[..., tuple[_Total, ChunkRecord]]:
    """Return `gradient(state, batch, mask, key_words, chunk)`, compiled.

    Args:
      mechanism: gives the clipped gradient.
      loss: the loss of one example; its microbatch size is that of each device.
      layout: where arrays are. Whole parameters meet examples that stay where they are:
        of the examples, only sums leave a device.

    Returns:
      A jitted function of the state, one chunk's examples (a tuple of pytrees of
      arrays, `(chunk_size, ...)`) and mask, the key words and the chunk's number.
    """
    options = loss.clipping_options()
    if isinstance(mechanism, NonPrivate):
        del options["engine"]
    if loss.microbatch_size is not None:
        options["microbatch_size"] *= layout.num_devices
    step_gradient = mechanism.step_gradient(loss.function, **options)

    @jax.jit
    def gradient(
        state: TrainState, batch: Any, mask: Any, key_words: Any, chunk: Any
    ) -> tuple[_Total, ChunkRecord]:
        arguments = chunk_arguments(loss, state, batch, key_words, chunk)
        params = spreading.keep_whole(layout, state.params)
        grads, raw = step_gradient(state.opt_state, params, *arguments, mask=mask)
        record = ChunkRecord(mask, raw.loss, raw.grad_norm)
        record = spreading.keep_whole(layout, record)
        return spreading.keep_split(layout, (grads, _non_finite(record))), record

    return gradient


def make_step(
    mechanism: PrivateBatches | NonPrivate,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    ema_decay: float | None,
    layout: Layout = SINGLE,
) -> Callable[..., tuple[TrainState, list[ChunkRecord]]]:
    """Return `step(state, key_words, batch) -> (state, records)`.

    Args:
      mechanism: gives the clipped gradient.
      loss: the loss of one example.
      optimizer: the private optimizer: takes `ClippedGrads`.
      ema_decay: decay of the average of the parameters, or None.
      layout: where arrays are.

    Returns:
      A function of the state, the key words, and one step's `sources.Chunk`s.
    """
    gradient = make_gradient(mechanism, loss, layout)

    @jax.jit
    def add(a: Any, b: Any) -> _Total:
        return spreading.keep_split(layout, (a[0] + b[0], a[1] + b[1]))

    survey = make_survey(mechanism, loss, layout)
    update = make_update(optimizer, ema_decay, layout)

    def step(
        state: TrainState, key_words: Any, batch: Sequence[Any]
    ) -> tuple[TrainState, list[ChunkRecord]]:
        if survey is not None:
            state = survey(state, key_words, batch)
        total: Any = None
        records = []
        for number, (rows, mask) in enumerate(batch):
            part, record = gradient(state, rows, mask, key_words, np.uint32(number))
            total = part if total is None else add(total, part)
            records.append(record)
        return update(state, total), records

    return step


def _non_finite(record: ChunkRecord) -> jax.Array:
    values = (record.loss, record.grad_norm)
    bad = jnp.zeros_like(record.mask)
    for value in values:
        if value is not None:
            bad |= record.mask & ~jnp.isfinite(value)
    return bad.sum(dtype=jnp.int32)
