"""Train once with canaries, and score them by what an auditor sees."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from dpjax import _check, training
from dpjax.auditing import observing, scoring
from dpjax.auditing.canaries import Canaries, GradientCanaries
from dpjax.auditing.planting import Planted
from dpjax.auditing.watching import Background, Progress, Trail
from dpjax.mechanism import DPSGD
from dpjax.types import ArrayTree, LossFn, Params

Trainer = Callable[[LossFn, Params, tuple[ArrayTree, ...], jax.Array], Params]
"""`trainer(loss_fn, params, data, key) -> final params`, of whatever make."""

OF_GRADIENTS = ("gradient", "displacement")
"""The scores of gradient canaries; a foreign trainer gives the last alone."""

_CHECKPOINTS = 10


@dataclasses.dataclass(frozen=True)
class Training:
    """One training run with canaries in it.

    Attributes:
      mechanism: of the run, canaries included.
      loss_fn: the loss of one example of the data, without canaries.
      params: initial parameters.
      optimizer: a plain optax optimizer; None where a trainer is given.
      planted: data and loss with the canaries.
      key: key words.
      trainer: trains instead of `training.fit`, or None.
      background: examples looked at in each step to estimate what the data add; 0 for
        no estimate.
      options: of `clipped_grad`: microbatch_size and engine.
      progress: told how many steps are done, or None.
    """

    mechanism: DPSGD
    loss_fn: LossFn
    params: Params
    optimizer: optax.GradientTransformation | None
    planted: Planted
    key: jax.Array
    trainer: Trainer | None
    background: int
    options: dict[str, Any]
    progress: Progress | None

    def scores(self, name: str) -> np.ndarray:
        """Train, and return the canaries' scores of this name, (m,) float64."""
        directions, rows = self.planted.directions, self.planted.rows
        if directions is None:
            return scoring.OF_EXAMPLES[name](self.loss_fn, rows, self._trail())
        if name == "displacement":
            first, *_, last = self._trail()
            return scoring.displacement(directions, first, last)
        total, background = self._released()
        unit = self._draws * self.mechanism.sensitivity
        return scoring.released(directions, total, background, unit)

    def _released(self) -> tuple[ArrayTree, ArrayTree | None]:
        """Train; return the sum of all noised sums, and what the data add to it."""
        watch = None
        if self.background:
            watch = Background(self.mechanism, self.loss_fn, self._data, **self._looks)
            watch(self.params)
        result = self._fit(watch, every=1)
        size = self.mechanism.expected_batch_size
        total = observing.released_total(result.opt_state)
        total = jax.tree.map(lambda leaf: size * leaf, total)
        return total, None if watch is None else watch.total

    def _trail(self) -> list[Params]:
        """Return the parameters at the beginning, at checkpoints, and at the end."""
        trail = Trail()
        trail(self.params)
        if self.trainer is None:
            every = max(1, self.mechanism.num_steps // _CHECKPOINTS)
            self._fit(trail, every=every)
            return trail.kept
        planted = self.planted
        final = self.trainer(planted.loss_fn, self.params, planted.data, self.key)
        _check.same_shapes("the trainer's parameters", final, self.params)
        trail(final)
        return trail.kept

    def _fit(
        self, watch: Callable[[Params], None] | None, every: int
    ) -> training.FitResult:
        """Train, and let `watch` see the parameters after each `every` steps."""
        done = 0

        def evaluate(params: Params) -> dict[str, float]:
            nonlocal done
            if watch is not None:
                watch(params)
            done = min(done + every, self.mechanism.num_steps)
            if self.progress is not None:
                self.progress(done, self.mechanism.num_steps)
            return {}

        return training.fit(
            self.mechanism,
            self.planted.loss_fn,
            self.params,
            self.planted.data,
            observing.observed(self.optimizer),
            key=self.key,
            evaluate=evaluate,
            logging=training.Logging(every=every, progress=False),
            **self.options,
        )

    @property
    def _data(self) -> tuple[ArrayTree, ...]:
        """The rows of the data alone."""
        size = self.mechanism.num_examples - len(jax.tree.leaves(self.planted.rows)[0])
        return jax.tree.map(lambda leaf: leaf[:size], self.planted.data[1:])

    @property
    def _looks(self) -> dict[str, Any]:
        return {"size": self.background, "options": self.options}

    @property
    def _draws(self) -> float:
        """How often a canary that is in is expected to be drawn."""
        rate = self.mechanism.expected_batch_size / self.mechanism.num_examples
        return rate * self.mechanism.num_steps


def checked_score(name: str | None, canaries: Canaries, trainer: Trainer | None) -> str:
    """Return the score that fits the canaries and what is seen of the run.

    Raises:
      ValueError: there is no such score for them.
    """
    seen = tuple(scoring.OF_EXAMPLES)
    if isinstance(canaries, GradientCanaries):
        seen = OF_GRADIENTS[0 if trainer is None else 1 :]
    return seen[0] if name is None else _check.choice("score", name, seen)
