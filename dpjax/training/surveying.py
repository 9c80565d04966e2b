"""What a step releases of its batch before the gradients, where a mechanism does."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dpjax.mechanism import NonPrivate, PrivateBatches
from dpjax.training import spreading
from dpjax.training.losses import Loss, chunk_arguments
from dpjax.training.placement import SINGLE, Layout
from dpjax.training.state import TrainState


def make_survey(
    mechanism: PrivateBatches | NonPrivate, loss: Loss, layout: Layout = SINGLE
) -> Callable[..., TrainState] | None:
    """Return `survey(state, key_words, batch) -> state`, or None.

    What a step releases of its batch before the gradients, where the mechanism does:
    the arguments are those of `make_step`.
    """
    options = loss.clipping_options(layout.num_devices)
    survey = mechanism.survey(loss.function, **options)
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
