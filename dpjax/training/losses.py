"""The loss of a run, and what it takes of each chunk."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from dpjax.noise import keys
from dpjax.training.state import TrainState
from dpjax.types import ArrayTree, LossFn

_DOMAIN = "dpjax.training.loss"


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

    def clipping_options(self, num_devices: int = 1) -> dict[str, Any]:
        """Return the options of `clipped_grad`.

        Args:
          num_devices: that work on a microbatch each, all at once.
        """
        size: Any = self.microbatch_size
        return {
            "keep_batch_dim": self.keep_batch_dim,
            "prng_argnum": self.prng_argnum,
            "microbatch_size": None if size is None else size * num_devices,
            "engine": self.engine,
        }


def chunk_arguments(
    loss: Loss, state: TrainState, rows: Any, key_words: Any, chunk: Any
) -> list[ArrayTree]:
    """Return what the loss takes of one chunk, its key for this step among it."""

    def key() -> jax.Array:
        step = keys.step_key(key_words, _DOMAIN, state.steps)
        return jax.random.fold_in(step, chunk)

    return loss.arguments(rows, key)
