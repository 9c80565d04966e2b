"""DP-SGD whose noise multiplier goes from one value to another, in stages."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpjax import _check, sampling
from dpjax.mechanism.dpsgd import DPSGD
from dpjax.mechanism.private import PrivateBatches
from dpjax.optimizers import differentially_private_aggregate
from dpjax.types import ArrayTree, KeyLike

_NOTHING = dp_accounting.NoOpDpEvent()

_LEAST = 1e-12
"""Noise this small, times a sum of any size, float32 still holds."""


class Stage(NamedTuple):
    """Steps that have the same noise multiplier.

    Attributes:
      noise_multiplier: a number that float32 holds exactly.
      num_steps: how many steps.
    """

    noise_multiplier: float
    num_steps: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPStagedSGD(DPSGD):
    """DP-SGD whose noise multiplier moves in stages, as was decided before.

    Stage s of S has the noise multiplier z r^(s / (S - 1)): less at the end than at the
    beginning, with r below 1, where gradients are smaller and errors last. Stages are
    as long as each other, but for a step.

    Attributes:
      final_noise_ratio: r > 0, noise multiplier of the last stage over that of the
        first, which is `noise_multiplier` and what `calibrate` solves for.
      num_stages: S, from 2 to 32, at most `num_steps`.

    Guarantee:
      That of `DPSGD`, for the composition of all stages: each step is a sampled
      Gaussian mechanism of its stage's noise multiplier. Poisson sampling only.

    Raises:
      ValueError: as `DPSGD`; another sampler, or a clip that moves, too.

    References:
      Yu, Liu, Pu, Gursoy and Truex (2019), Differentially private model publishing for
      deep learning, arXiv 1904.02200: schedules of noise that are decided before.

    >>> plan = DPStagedSGD(num_examples=4000, expected_batch_size=1000, num_steps=10,
    ...                    l2_norm_clip=1.0, noise_multiplier=2.0,
    ...                    final_noise_ratio=0.25, num_stages=3)
    >>> [(stage.noise_multiplier, stage.num_steps) for stage in plan.stages()]
    [(2.0, 4), (1.0, 3), (0.5, 3)]
    """

    final_noise_ratio: float
    num_stages: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("final_noise_ratio", _check.positive)
        self._keep("num_stages", _check.integer, minimum=2)
        if self.num_stages > min(32, self.num_steps):
            expected = "at most 32 stages, and a step in each"
            _check.fail(expected, "num_stages", self.num_stages)
        if not isinstance(self._sampler, sampling.Poisson):
            _check.fail("Poisson sampling", "sampler", self.sampler)
        if self.noise_multiplier and self.stages()[-1].noise_multiplier < _LEAST:
            expected = f"noise of at least {_LEAST:.0e} in the last stage"
            _check.fail(expected, "final_noise_ratio", self.final_noise_ratio)
        if self.is_adaptive:
            _check.fail("a clip that stays", "l2_norm_clip", self.l2_norm_clip)

    @property
    def noise_stddev(self) -> float:
        """It moves from stage to stage.

        Raises:
          ValueError: always.
        """
        _check.fail("noise that stays", "final_noise_ratio", self.final_noise_ratio)

    def stages(self, steps: int | None = None) -> list[Stage]:
        """Return the stages of the first `steps` steps, of all where `None`."""
        return self._stages(self._noise(), self._steps(steps))

    def epsilon_curve(
        self, delta: float, steps: Sequence[int], *, accountant: str = "exact"
    ) -> np.ndarray:
        """Return epsilon after each of `steps`: (n,) numbers, at most `num_steps`."""
        return PrivateBatches.epsilon_curve(self, delta, steps, accountant=accountant)

    def optimizer(
        self, optimizer: optax.GradientTransformation, key: KeyLike | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """Make a plain optax optimizer private with the noise of each step's stage."""
        stages = self.stages()
        multipliers = np.array([s.noise_multiplier for s in stages], np.float32)
        ends = np.cumsum([s.num_steps for s in stages])

        def aggregate(
            noise_multiplier: float | jax.Array,
        ) -> optax.GradientTransformationExtraArgs:
            return differentially_private_aggregate(
                self.l2_norm_clip,
                noise_multiplier,
                key,
                expected_batch_size=self.expected_batch_size,
                sampling_prob=self.sampling_prob,
            )

        def update(
            updates: Any, state: Any, params: ArrayTree | None = None, **extra: Any
        ) -> Any:
            stage = jnp.searchsorted(jnp.asarray(ends[:-1]), state.step, side="right")
            now = aggregate(jnp.asarray(multipliers)[stage])
            return now.update(updates, state, params, **extra)

        init = aggregate(stages[0].noise_multiplier).init
        private = optax.GradientTransformationExtraArgs(init, update)
        return optax.chain(private, optimizer)

    def describe(self) -> dict[str, Any]:
        """Return every public constant, ready for JSON; noise is that of stage 0."""
        stages = [list(stage) for stage in self.stages()]
        return super().describe() | {"noise_stages": stages}

    def _stages(self, noise_multiplier: float, steps: int) -> list[Stage]:
        """Return the stages that the first `steps` steps are in."""
        last = self.num_stages - 1
        found, begin = [], 0
        for stage in range(self.num_stages):
            end = -(-self.num_steps * (stage + 1) // self.num_stages)
            count = min(end, steps) - begin
            factor = self.final_noise_ratio ** (stage / last)
            if count > 0:
                rounded = float(np.float32(noise_multiplier * factor))
                found.append(Stage(rounded, count))
            begin = end
        return found

    def _event(self, noise_multiplier: float, steps: int) -> dp_accounting.DpEvent:
        stages = self._stages(noise_multiplier, steps)
        spent = [super(DPStagedSGD, self)._event(*stage) for stage in stages]
        return dp_accounting.ComposedDpEvent(spent) if spent else _NOTHING
