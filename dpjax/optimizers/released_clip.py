"""Clips that each step settles anew, by what was released before."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from dpjax import clipping
from dpjax.clipping import PerExample
from dpjax.optimizers.settings import Number
from dpjax.types import ArrayTree, KeyLike, LossFn

StepGradient = Callable[..., tuple[Any, PerExample]]
"""`fn(opt_state, params, *batch, mask) -> (gradients, raw quantities)`.

The gradients of the chunks of a step are added with `+`, and the optimizer takes them.
"""


class Survey(NamedTuple):
    """What is released of a batch before its gradients are clipped.

    Attributes:
      look: `look(opt_state, params, *batch, mask) -> pytree`, of one chunk; those of
        the chunks of a step are added, leaf by leaf. Raw.
      choose: `choose(opt_state, total) -> opt_state`, with noise.
    """

    look: Callable[..., ArrayTree]
    choose: Callable[[ArrayTree, ArrayTree], ArrayTree]


class ReleasedClip(abc.ABC):
    """A clip that depends on what was released before, for a mechanism to hold.

    All settings are public. What the steps learn is in the state of the optimizer.
    """

    @property
    @abc.abstractmethod
    def first(self) -> Any:
        """What clips the gradients of the first step; its sensitivity is a constant."""

    @abc.abstractmethod
    def aggregate(
        self,
        noise_multiplier: float,
        key: KeyLike | None,
        *,
        expected_batch_size: float,
        sampling_prob: Number | None,
    ) -> optax.GradientTransformationExtraArgs:
        """Return the private average, the first of an optimizer's chain."""

    @abc.abstractmethod
    def step_gradient(self, loss_fn: LossFn, **options: Any) -> StepGradient:
        """Return the gradient of a chunk, clipped as the optimizer's state says.

        Args:
          loss_fn: the loss of one example.
          options: of `clipping.clipped_grad`.
        """

    def survey(
        self, noise_multiplier: float, loss_fn: LossFn, **options: Any
    ) -> Survey | None:
        """Return what each step is to release before its gradients, if anything.

        Args:
          noise_multiplier: of a whole step, as for `aggregate`.
          loss_fn: the loss of one example.
          options: of `clipping.clipped_grad`.
        """
        del noise_multiplier, loss_fn, options
        return None


def settled_gradient(
    clipped_grad: Callable[..., clipping.ClippedGrads],
) -> StepGradient:
    """Return the gradient of a chunk where the clip is the same at every step."""

    def gradient(
        opt_state: ArrayTree, params: ArrayTree, *batch: Any, mask: Any
    ) -> tuple[Any, PerExample]:
        del opt_state
        grads = clipped_grad(params, *batch, mask=mask)
        return grads.without_per_example(), raw_quantities(grads)

    return gradient


def raw_quantities(grads: clipping.ClippedGrads) -> PerExample:
    """Return the raw quantities of examples, empty where there are none."""
    return grads.per_example or PerExample(None, None)
