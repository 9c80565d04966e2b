"""The part of a mechanism that draws batches."""

import abc
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dpjax import _check, clipping, noise, sampling
from dpjax.optimizers.released_clip import StepGradient, Survey, settled_gradient
from dpjax.types import KeyLike, LossFn


class Batches(abc.ABC):
    """What every mechanism offers about its batches."""

    num_examples: int
    expected_batch_size: float
    num_steps: int
    sampler: sampling.Sampler | None
    static_batch_size: int | None

    @property
    def chunk_size(self) -> int:
        """Static number of rows of a chunk; larger draws fill several chunks."""
        if self.static_batch_size is not None:
            return self.static_batch_size
        return self._sampler.chunk_size(
            num_examples=self.num_examples,
            expected_batch_size=self.expected_batch_size,
        )

    @property
    def sampling_prob(self) -> float | None:
        """Probability that an example enters a batch; None: nothing is amplified.

        With cyclic sampling, a batch that is its group's turn.
        """
        return self._sampler.sampling_prob(
            num_examples=self.num_examples,
            expected_batch_size=self.expected_batch_size,
        )

    @property
    def is_poisson(self) -> bool:
        """Whether each example enters each batch by a throw of its own."""
        return self._sampler.is_poisson

    def batches(
        self, key: KeyLike, start_step: int = 0
    ) -> Iterator[list[sampling.IndexChunk]]:
        """Yield, for each step from `start_step` on, the chunks of its batch.

        Args:
          key: PRNG key, key data or seed. Sampling draws from a domain of its own, so
            that the key of the noise can be used.
          start_step: where to go on; the batches are those of a run never stopped.

        Yields:
          A list of `IndexChunk(indices, mask)`, each `(chunk_size,)`: the gradients of
          the chunks of one step are summed before the noise.
        """
        return self._sampler.batches(
            np.asarray(noise.key_data(key)),
            num_examples=self.num_examples,
            expected_batch_size=self.expected_batch_size,
            num_steps=self.num_steps,
            chunk_size=self.chunk_size,
            start_step=start_step,
        )

    @abc.abstractmethod
    def clipped_grad(
        self, loss_fn: LossFn, **options: Any
    ) -> Callable[..., clipping.ClippedGrads]:
        """Return the gradient of a chunk of examples; each mechanism has its own."""

    def step_gradient(self, loss_fn: LossFn, **options: Any) -> StepGradient:
        """Return the gradient of a chunk, as the state of the optimizer says.

        Args:
          loss_fn: `loss_fn(params, *example) -> scalar`, the loss of ONE example.
          options: of `clipping.clipped_grad`.

        Returns:
          `fn(opt_state, params, *batch, mask) -> (gradients, raw)`: gradients of the
          chunks of one step are added with `+` and go to `optimizer`; `raw` is a
          `clipping.PerExample`, and never private.
        """
        return settled_gradient(self.clipped_grad(loss_fn, **options))

    def survey(self, loss_fn: LossFn, **options: Any) -> Survey | None:
        """Return what each step is to release before its gradients, if anything."""
        del loss_fn, options
        return None

    @property
    def _sampler(self) -> sampling.Sampler:
        return sampling.Poisson() if self.sampler is None else self.sampler

    def _check_batches(self) -> None:
        """Check the constants, and keep them as plain numbers, ready for JSON."""
        self._keep("num_examples", _check.integer, minimum=1)
        self._keep("expected_batch_size", _plain_positive)
        if self.expected_batch_size > self.num_examples:
            _check.fail(
                f"at most num_examples={self.num_examples}",
                "expected_batch_size",
                self.expected_batch_size,
            )
        self._keep("num_steps", _check.integer, minimum=0)
        if self.static_batch_size is not None:
            self._keep("static_batch_size", _check.integer, minimum=1)
        if not isinstance(self._sampler, sampling.Sampler):
            _check.fail("a sampler", "sampler", self.sampler, TypeError)
        _ = self.sampling_prob

    def _keep(self, name: str, check: Callable[..., Any], **limits: int) -> None:
        object.__setattr__(self, name, check(name, getattr(self, name), **limits))

    def _steps(self, step: int | None) -> int:
        """Return `step`, checked against the plan; all steps where it is `None`."""
        steps = self.num_steps if step is None else step
        if _check.integer("step", steps, minimum=0) > self.num_steps:
            _check.fail(f"at most num_steps={self.num_steps}", "step", steps)
        return steps

    def _describe_batches(self) -> dict[str, Any]:
        return {
            "mechanism": type(self).__name__,
            "num_examples": self.num_examples,
            "expected_batch_size": self.expected_batch_size,
            "num_steps": self.num_steps,
            "sampling_prob": self.sampling_prob,
            "sampler": type(self._sampler).__name__,
            "sampler_statement": self._sampler.statement,
            "divisor": self.expected_batch_size,
            "chunk_size": self.chunk_size,
        }


def _plain_positive(name: str, value: Any) -> float:
    """Return a number > 0 as an int where it is one, else as a float."""
    number = _check.positive(name, value)
    try:
        return operator.index(value)
    except TypeError:
        return number
