"""A clip norm that falls, or rises, from step to step as was decided before."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dpjax import _check, clipping
from dpjax.clipping import PerExample
from dpjax.optimizers.aggregate import differentially_private_aggregate
from dpjax.optimizers.released_clip import (
    ReleasedClip,
    StepGradient,
    raw_quantities,
)
from dpjax.optimizers.settings import Number
from dpjax.optimizers.spent import the_private_state
from dpjax.types import ArrayTree, KeyLike, LossFn, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduledClip(ReleasedClip):
    """A clip norm on a geometric path over a run, for a mechanism to hold.

    Step t of T is clipped to C_0 (C_T / C_0)^(t / (T - 1)), and its noise has the noise
    multiplier times that: as gradients shrink, so does the noise. The event of a step
    does not depend on its clip norm.

    Attributes:
      initial_l2_norm_clip: C_0 > 0, of the first step. All settings are public.
      final_l2_norm_clip: C_T > 0, of the last step, and of any after it.
      num_steps: T >= 2.

    Raises:
      ValueError: a setting out of range.

    References:
      Du, Li, Chen, Chen and Hong (2021), Dynamic differential-privacy preserving SGD,
      arXiv 2111.00173.
    """

    initial_l2_norm_clip: float
    final_l2_norm_clip: float
    num_steps: int

    def __post_init__(self) -> None:
        """Check each setting by itself."""
        _check.positive("initial_l2_norm_clip", self.initial_l2_norm_clip)
        _check.positive("final_l2_norm_clip", self.final_l2_norm_clip)
        _check.integer("num_steps", self.num_steps, minimum=2)

    @property
    def first(self) -> float:
        """The clip norm of the first step."""
        return self.initial_l2_norm_clip

    def at(self, step: jax.Array | int) -> jax.Array:
        """Return the clip norm of a step, counted from 0: a float32 scalar.

        >>> clip = ScheduledClip(
        ...     initial_l2_norm_clip=1.0, final_l2_norm_clip=0.25, num_steps=3)
        >>> [float(clip.at(step)) for step in range(4)]
        [1.0, 0.5, 0.25, 0.25]
        """
        done = jnp.minimum(jnp.asarray(step, jnp.float32) / (self.num_steps - 1), 1)
        ratio = self.final_l2_norm_clip / self.initial_l2_norm_clip
        return jnp.float32(self.initial_l2_norm_clip) * jnp.float32(ratio) ** done

    def aggregate(
        self,
        noise_multiplier: float,
        key: KeyLike | None,
        *,
        expected_batch_size: float,
        sampling_prob: Number | None,
    ) -> optax.GradientTransformationExtraArgs:
        """Return the private average: noise follows the sensitivity of the sum."""
        return differentially_private_aggregate(
            self.first,
            noise_multiplier,
            key,
            expected_batch_size=expected_batch_size,
            sampling_prob=sampling_prob,
        )

    def step_gradient(self, loss_fn: LossFn, **options: Any) -> StepGradient:
        """Return the gradient of a chunk, at the clip norm of the state's step."""
        clipped_grad = clipping.clipped_grad(loss_fn, self.first, **options)

        def gradient(
            opt_state: ArrayTree, params: Params, *batch: Any, mask: Any
        ) -> tuple[clipping.ClippedGrads, PerExample]:
            clip_norm = self.at(the_private_state(opt_state).step)
            grads = clipped_grad(params, *batch, mask=mask, l2_norm_clip=clip_norm)
            return grads.without_per_example(), raw_quantities(grads)

        return gradient
