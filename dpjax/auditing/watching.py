"""What an auditor who sees every step works out while a run goes on."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.mechanism import DPSGD
from dpjax.types import ArrayTree, LossFn, Params

Progress = Callable[[int, int], None]
"""Told, now and then, how many steps of how many are done."""

_DOMAIN = int.from_bytes(b"background")


class Background:
    """What the data themselves are expected to add to the sums that are released.

    An auditor knows all but the coins of the canaries, and so the data and the
    parameters of every step. The expected sum of the clipped gradients of the data at
    each step, estimated from some of them, is subtracted from what was released:
    what is left is canaries, noise, and what sampling adds.

    Args:
      mechanism: of the run, canaries included.
      loss_fn: the loss of one example of the data.
      data: tuple of pytrees of arrays `(N, ...)`, canaries not included.
      size: how many examples are looked at in each step.
      options: of `clipped_grad`.
    """

    def __init__(
        self,
        mechanism: DPSGD,
        loss_fn: LossFn,
        data: tuple[ArrayTree, ...],
        size: int,
        options: dict[str, Any],
    ) -> None:
        """Compile nothing yet."""
        self._num_examples = len(jax.tree.leaves(data)[0])
        self._size = min(size, self._num_examples)
        self._data, self._steps = data, 0
        self._num_steps = mechanism.num_steps
        rate = mechanism.expected_batch_size / mechanism.num_examples
        self._factor = rate * self._num_examples / self._size
        self._generator = np.random.default_rng(_DOMAIN)
        clipped_grad = mechanism.clipped_grad(loss_fn, **options)
        self._sum = jax.jit(lambda params, *batch: clipped_grad(params, *batch).sum)
        self.total: ArrayTree = None

    def __call__(self, params: Params) -> None:
        """Add what is expected of the step that begins at `params`, if there is one."""
        if self._steps == self._num_steps:
            return
        chosen = self._generator.choice(self._num_examples, self._size, replace=False)
        batch = jax.tree.map(lambda leaf: leaf[chosen], self._data)
        part = jax.tree.map(lambda leaf: self._factor * leaf, self._sum(params, *batch))
        self._steps += 1
        if self.total is None:
            self.total = part
        else:
            self.total = jax.tree.map(jnp.add, self.total, part)


class Trail:
    """The parameters of a run at its beginning and at checkpoints, kept."""

    def __init__(self) -> None:
        """Keep none yet."""
        self.kept: list[Params] = []

    def __call__(self, params: Params) -> None:
        """Keep a copy."""
        self.kept.append(jax.tree.map(np.asarray, params))
