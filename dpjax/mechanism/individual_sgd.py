"""DP-SGD in which each example has a budget of its own, as one value."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import dp_accounting
import numpy as np
import optax

from dpjax import _check, accounting, sampling
from dpjax.accounting import AccountingError
from dpjax.mechanism.private import PrivateBatches
from dpjax.mechanism.relations import RELATION_WORDS
from dpjax.optimizers import individual
from dpjax.optimizers.released_clip import StepGradient
from dpjax.types import KeyLike, LossFn


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPIndividualSGD(PrivateBatches):
    """DP-SGD whose examples pay for what they add, and not for the clip norm.

    What a step costs an example is its clipped norm, squared. An example that is learnt
    already adds little, and keeps most of its budget for later steps; one that has used
    it up adds nothing more. So a run may be longer than m epochs, m the number of steps
    that an example can pay for at the clip norm, and still cost what m epochs do. It
    knows of no sampling: batches come in a fixed order, whole data sets among them.

    Attributes:
      num_examples: size of the data set, assumed public.
      expected_batch_size: an integer, size of a batch and the divisor of the noised
        sum.
      num_steps: steps planned.
      l2_norm_clip: clip norm C, a number from 2^-100 to 2^100.
      full_steps: m, from 1 to 2^20.
      noise_multiplier: noise standard deviation of a step over C, >= 0; `None` until
        `calibrate` has solved for it.
      sampler: `None` or `sampling.Deterministic()`.
      relation: neighbouring relation; `None` is that of the sampler.
      static_batch_size: rows of a padded chunk, at least a batch; `None` is a batch.

    Guarantee:
      Training with `batches`, `step_gradient` and `optimizer` of one value, with one
      secret key, is (epsilon, delta)-DP with `epsilon(delta)`, under `relation`, for
      what is released: parameters, and what follows from them. It costs m Gaussian
      releases of the noise multiplier, or as many as there were epochs, whichever is
      less. What is left of budgets is raw, in the state of the optimizer, and in the
      checkpoints of a run: as secret as the data.

    Raises:
      ValueError: settings out of range.
      AccountingError: another sampler, or a relation without an account.
      TypeError: settings of the wrong type.

    References:
      Koskela, Tobaben and Honkela (2023), Individual privacy accounting with Gaussian
      differential privacy, arXiv 2209.15596; Feldman and Zrnic (2021), Individual
      privacy accounting via a Renyi filter, arXiv 2008.11193, section 4, where an
      example that cannot pay for the whole of what it would add is left out.

    >>> plan = DPIndividualSGD(num_examples=4000, expected_batch_size=4000,
    ...                        num_steps=300, l2_norm_clip=1.0, full_steps=60)
    >>> plan = plan.calibrate(target_epsilon=3.0, delta=1e-4)
    >>> bool(plan.epsilon(1e-4, step=60) == plan.epsilon(1e-4) <= 3.0)
    True
    """

    num_examples: int
    expected_batch_size: float
    num_steps: int
    l2_norm_clip: Any
    full_steps: int
    noise_multiplier: float | None = None
    sampler: sampling.Sampler | None = None
    relation: dp_accounting.NeighboringRelation | None = None
    static_batch_size: int | None = None

    def __post_init__(self) -> None:
        self._check_batches()
        if type(self._sampler) is not sampling.Deterministic:
            expected = "Deterministic: examples are known by their places"
            _check.fail(expected, "sampler", self._sampler, AccountingError)
        self._keep("l2_norm_clip", lambda _, clip: individual.checked_clip_norm(clip))
        self._keep("full_steps", lambda _, value: individual.checked_full_steps(value))
        self._check_private()
        if self.chunk_size < self.expected_batch_size:
            expected = f"at least a batch, {self.expected_batch_size}"
            _check.fail(expected, "static_batch_size", self.static_batch_size)

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise in each value of the released average."""
        return self._noise() * self.l2_norm_clip / self.expected_batch_size

    @property
    def common_clip_norm(self) -> None:
        """None: each example has its own."""
        return None

    def epsilon_curve(
        self, delta: float, steps: Sequence[int], *, accountant: str = "exact"
    ) -> np.ndarray:
        """Return epsilon after each of `steps`: (n,) numbers, at most `num_steps`."""
        counts = [self._full_steps(self._steps(step)) for step in steps]
        unique, places = np.unique(counts, return_inverse=True)
        found = [
            accounting.event_epsilon(
                self._composed(self._noise(), count),
                delta,
                accountant=accountant,
                relation=self.neighboring_relation,
            )
            for count in unique.tolist()
        ]
        return np.array(found, np.float64)[places]

    def step_gradient(self, loss_fn: LossFn, **options: Any) -> StepGradient:
        """Return the gradient of a batch, each example clipped to what it has left."""
        return individual.individual_gradient(
            loss_fn, self.l2_norm_clip, self.full_steps, **options
        )

    def optimizer(
        self, optimizer: optax.GradientTransformation, key: KeyLike | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """Make a plain optax optimizer private with this mechanism's noise.

        What `privacy_spent` reads off its state takes each step for one that costs
        every example the clip norm; `epsilon` is the statement.
        """
        private = individual.individual_aggregate(
            self.l2_norm_clip,
            self._noise(),
            key,
            full_steps=self.full_steps,
            num_examples=self.num_examples,
            expected_batch_size=int(self.expected_batch_size),
        )
        return optax.chain(private, optimizer)

    def describe(self) -> dict[str, Any]:
        """Return every public constant, ready for JSON."""
        multiplier = self._noise()
        return self._describe_batches() | {
            "l2_norm_clip": self.l2_norm_clip,
            "full_steps": self.full_steps,
            "noise_multiplier": multiplier,
            "neighboring_relation": RELATION_WORDS[self.neighboring_relation],
            "sensitivity": self.sensitivity,
            "noise_std": multiplier * self.sensitivity,
            "event": repr(self.event()),
        }

    @property
    def _sampler(self) -> sampling.Sampler:
        return sampling.Deterministic() if self.sampler is None else self.sampler

    def _full_steps(self, steps: int) -> int:
        """Return in how many of the first `steps` an example may add the clip norm."""
        every = -(-self.num_examples // int(self.expected_batch_size))
        return min(-(-steps // every), self.full_steps)

    def _event(self, noise_multiplier: float, steps: int) -> dp_accounting.DpEvent:
        return self._composed(noise_multiplier, self._full_steps(steps))

    def _composed(self, noise_multiplier: float, count: int) -> dp_accounting.DpEvent:
        if count == 0:
            return dp_accounting.NoOpDpEvent()
        gaussian = dp_accounting.GaussianDpEvent(noise_multiplier)
        return dp_accounting.SelfComposedDpEvent(gaussian, count)
