"""One training step: gradient of each chunk, sum, noise and update; compiled once.

The shapes of a chunk never change, so each of the three functions is traced once. Keys
go in as arguments: a constant would be written into the compiled program.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpjax.mechanism import NonPrivate, PrivateBatches
from dpjax.training import spreading
from dpjax.training.losses import Loss, chunk_arguments
from dpjax.training.metrics import ChunkRecord
from dpjax.training.placement import SINGLE, Layout
from dpjax.training.state import TrainState
from dpjax.training.surveying import make_survey
from dpjax.training.update import make_update

_Total = tuple[Any, jax.Array]
"""What chunks add up to: gradients, and how many losses or gradients were not finite.
"""


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
    options = loss.clipping_options(layout.num_devices)
    if isinstance(mechanism, NonPrivate):
        del options["engine"]
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
