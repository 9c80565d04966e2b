"""DP-SGD as one value."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import dp_accounting
import numpy as np
import optax

from dpjax import _check, accounting, clipping, optimizers, sampling
from dpjax.mechanism.clip_norms import describe_clip, static_sensitivity
from dpjax.mechanism.not_a_guarantee import NotAGuarantee
from dpjax.mechanism.private import PrivateBatches
from dpjax.mechanism.relations import RELATION_WORDS
from dpjax.optimizers.released_clip import ReleasedClip, StepGradient, Survey
from dpjax.types import KeyLike, LossFn


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPSGD(PrivateBatches):
    """Differentially private SGD: sample, clip, sum, add noise, divide by a constant.

    Every field is a public constant. Nothing that depends on private data belongs here.

    Attributes:
      num_examples: size of the data set, assumed public.
      expected_batch_size: mean batch size and the divisor of the noised sum.
      num_steps: steps planned.
      l2_norm_clip: clip norm > 0, a prefix pytree of such, a clipping rule, or one of
        `optimizers.AdaptiveClip`, `ScaledClip` and `SparseRowClip`, with which what
        clips a step follows from what was released before, or `ScheduledClip`.
      noise_multiplier: noise standard deviation over add-or-remove sensitivity, >= 0;
        `None` until `calibrate` has solved for it.
      sampler: one of `sampling`; `None` is `sampling.Poisson()`.
      relation: neighbouring relation of the guarantee; `None` takes the sampler's own.
      static_batch_size: rows of a padded chunk; `None` chooses them. It changes memory
        and time only.

    Guarantee:
      Training with `batches`, `clipped_grad` and `optimizer` of one value, with one
      secret key, is (epsilon, delta)-DP with `epsilon(delta)`, under `relation`.

    Raises:
      ValueError: settings out of range, a batch larger than the data, or a pair of
        sampler and relation that has no sound account.
      TypeError: settings of the wrong type.

    References:
      Abadi et al. 2016, Deep Learning with Differential Privacy, arXiv 1607.00133.

    >>> plan = DPSGD(num_examples=4000, expected_batch_size=1000, num_steps=120,
    ...              l2_norm_clip=1.0).calibrate(target_epsilon=3.0, delta=1e-4)
    >>> bool(plan.epsilon(1e-4) <= 3.0)
    True
    """

    num_examples: int
    expected_batch_size: float
    num_steps: int
    l2_norm_clip: Any
    noise_multiplier: float | None = None
    sampler: sampling.Sampler | None = None
    relation: dp_accounting.NeighboringRelation | None = None
    static_batch_size: int | None = None

    def __post_init__(self) -> None:
        self._check_batches()
        self._check_private()
        if self.is_adaptive and self._max_copies > 1:
            expected = "a static clip where an example may come twice in a batch"
            _check.fail(expected, "l2_norm_clip", self.l2_norm_clip)

    @property
    def is_adaptive(self) -> bool:
        """Whether what clips a step follows from what was released before."""
        return isinstance(self.l2_norm_clip, ReleasedClip)

    @property
    def sensitivity(self) -> float:
        """L2 sensitivity of the clipped sum when one example is added or removed.

        Where what clips moves, that of the first step.
        """
        return static_sensitivity(self._first_clip)

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise in each value of the released average.

        Raises:
          ValueError: it moves with what clips.
        """
        if self.is_adaptive:
            _check.fail("a clip that stays", "l2_norm_clip", self.l2_norm_clip)
        return self._noise() * self.sensitivity / self.expected_batch_size

    def epsilon_curve(
        self, delta: float, steps: Sequence[int], *, accountant: str = "exact"
    ) -> np.ndarray:
        """Return epsilon after each of `steps`, for little more than one costs.

        Args:
          delta: in (0, 1).
          steps: (n,) numbers of steps, increasing, at most `num_steps`.
          accountant: as in `epsilon`.
        """
        spent = [self._event(self._noise(), self._steps(number)) for number in steps]
        counts = [getattr(event, "count", 0) for event in spent]
        if not any(counts):
            return np.zeros(len(counts))
        unique, places = np.unique(counts, return_inverse=True)
        return accounting.event_curve(
            spent[-1].event,
            delta,
            steps=unique.tolist(),
            accountant=accountant,
            relation=self.neighboring_relation,
        )[places]

    def epsilon_if_poisson(
        self, delta: float, *, step: int | None = None, accountant: str = "exact"
    ) -> NotAGuarantee:
        """Return the epsilon of Poisson sampling at the same rate: not a guarantee.

        It is often quoted for batches that are shuffled, or of fixed size.
        """
        poisson = dataclasses.replace(
            self, sampler=sampling.Poisson(), relation=self.neighboring_relation
        )
        spent = poisson.epsilon(delta, step=step, accountant=accountant)
        return NotAGuarantee(spent, delta, "batches were Poisson samples")

    def clipped_grad(
        self, loss_fn: LossFn, **options: Any
    ) -> Callable[..., clipping.ClippedGrads]:
        """Return `clipping.clipped_grad` with this mechanism's clip norm.

        Where what clips moves it is the first step's: take `step_gradient`.
        """
        return clipping.clipped_grad(loss_fn, self._first_clip, **options)

    def step_gradient(self, loss_fn: LossFn, **options: Any) -> StepGradient:
        """Return the gradient of a chunk, clipped as the optimizer's state says."""
        if isinstance(self.l2_norm_clip, ReleasedClip):
            return self.l2_norm_clip.step_gradient(loss_fn, **options)
        return super().step_gradient(loss_fn, **options)

    def survey(self, loss_fn: LossFn, **options: Any) -> Survey | None:
        """Return what each step is to release before its gradients, if anything."""
        if isinstance(self.l2_norm_clip, ReleasedClip):
            return self.l2_norm_clip.survey(self._noise(), loss_fn, **options)
        return None

    def optimizer(
        self, optimizer: optax.GradientTransformation, key: KeyLike | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """Make a plain optax optimizer private with this mechanism's noise.

        What `privacy_spent` reads off its state is for neighbours of which one lacks
        an example, and amplifies by Poisson sampling alone; for other samplers and
        relations, this object's `epsilon` is the statement.
        """
        size = self.expected_batch_size
        sampling_prob = self.sampling_prob if self._sampler.is_poisson else None
        if isinstance(self.l2_norm_clip, ReleasedClip):
            private = self.l2_norm_clip.aggregate(
                self._noise(),
                key,
                expected_batch_size=size,
                sampling_prob=sampling_prob,
            )
            return optax.chain(private, optimizer)
        return optimizers.privatize(
            optimizer,
            self.l2_norm_clip,
            self._noise(),
            key,
            expected_batch_size=size,
            sampling_prob=sampling_prob,
            max_copies=self._max_copies,
        )

    def describe(self) -> dict[str, Any]:
        """Return every public constant, ready for JSON."""
        multiplier = self._noise()
        return self._describe_batches() | {
            "l2_norm_clip": (
                repr(self.l2_norm_clip)
                if self.is_adaptive
                else describe_clip(self.l2_norm_clip)
            ),
            "noise_multiplier": multiplier,
            "neighboring_relation": RELATION_WORDS[self.neighboring_relation],
            "sensitivity": self.sensitivity,
            "noise_std": multiplier * self.sensitivity,
            "event": repr(self.event()),
        }

    @property
    def _first_clip(self) -> Any:
        """Return what clips the first step's gradients."""
        if isinstance(self.l2_norm_clip, ReleasedClip):
            return self.l2_norm_clip.first
        return self.l2_norm_clip

    @property
    def _max_copies(self) -> int:
        return self._sampler.max_copies(
            num_examples=self.num_examples, expected_batch_size=self.expected_batch_size
        )

    def _event(self, noise_multiplier: float, steps: int) -> dp_accounting.DpEvent:
        return self._sampler.event(
            noise_multiplier=noise_multiplier,
            num_examples=self.num_examples,
            expected_batch_size=self.expected_batch_size,
            num_steps=steps,
            relation=self.neighboring_relation,
        )
