"""DP-FTRL by matrix factorisation as one value."""

import dataclasses
from typing import Any

import dp_accounting
import numpy as np
import optax

from dpjax import sampling
from dpjax.mechanism.clip_norms import describe_clip
from dpjax.mechanism.factorization_events import (
    is_amplified,
    participation_of,
    strategy_sensitivity,
)
from dpjax.mechanism.private import PrivateBatches
from dpjax.mechanism.relations import RELATION_WORDS
from dpjax.noise import correlated
from dpjax.optimizers.correlated import correlated_aggregate
from dpjax.types import KeyLike


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMatrixFactorization(PrivateBatches):
    """Private training whose noise cancels over steps: DP-FTRL, matrix factorisation.

    It is `DPSGD` but for the noise: at step t, what is added to the clipped sum is row
    t of C^{-1} Z. Where batches are not sampled, it needs far less noise than DP-SGD
    for the same sums. `strategy` is C; `sampler` says at which steps an example can be,
    and so how large the sensitivity of C is:

    | sampler          | participation                  | amplified                   |
    | ---------------- | ------------------------------ | --------------------------- |
    | `Deterministic`  | cyclic, once an epoch          | no                          |
    | `ShuffledEpochs` | once an epoch, at any step     | no                          |
    | `CyclicPoisson`  | cyclic, with its period        | with at most as many bands  |
    | `BMinSep`        | `min_separation` steps apart   | no                          |

    Attributes:
      num_examples: size of the data set, assumed public.
      expected_batch_size: mean batch size and the divisor of the noised sum.
      num_steps: steps planned: all that noise is made for, >= 1.
      l2_norm_clip: clip norm > 0, a prefix pytree of such, or a clipping rule.
      strategy: one of `noise.correlated`, made for as many steps at least.
      noise_multiplier: that of the event, >= 0: standard deviation of the values of Z
        over add-or-remove sensitivity of a sum times that of C. `None` until
        `calibrate` has solved for it.
      sampler: one of the table; `None` is `sampling.Deterministic()`.
      relation: neighbouring relation of the guarantee; `None` takes the sampler's own.
      static_batch_size: rows of a padded chunk; `None` chooses them.

    Guarantee:
      Training with `batches`, `clipped_grad` and `optimizer` of one value, with one
      secret key, is (epsilon, delta)-DP with `epsilon(delta)`, under `relation`, though
      each gradient depends on what was released before. Neighbours differ by one
      example, which contributes to each of its steps a vector of at most the clip
      norm: all steps are one Gaussian mechanism M (C X + Z) of the sensitivity of C
      times the clip norm (twice that where an example is replaced by any other).

    `event` is one Gaussian release for the whole plan; where it is amplified, one
    sampled release for each period begun. After fewer steps, `epsilon` is that of fewer
    columns of C under the same noise: the cost of what is released by then.

    Raises:
      ValueError: settings out of range, or a strategy for fewer steps.
      AccountingError: a sampler or a relation that has no sound account.
      TypeError: settings of the wrong type.

    References:
      Kairouz et al. (2021), arXiv 2103.00039; Denisov et al. (2022), arXiv 2202.08312,
      theorem 2.1; Choquette-Choo et al. (2023), (Amplified) banded matrix
      factorization, arXiv 2306.08153, theorem 4.

    >>> plan = DPMatrixFactorization(
    ...     num_examples=4000, expected_batch_size=1000, num_steps=40, l2_norm_clip=1.0,
    ...     strategy=correlated.banded_inverse_square_root(4),
    ... ).calibrate(target_epsilon=3.0, delta=1e-4)
    >>> bool(plan.epsilon(1e-4) <= 3.0)
    True
    """

    num_examples: int
    expected_batch_size: float
    num_steps: int
    l2_norm_clip: Any
    strategy: correlated.Strategy
    noise_multiplier: float | None = None
    sampler: sampling.Sampler | None = None
    relation: dp_accounting.NeighboringRelation | None = None
    static_batch_size: int | None = None

    def __post_init__(self) -> None:
        self._check_batches()
        _ = self.participation
        self._check_private()
        _ = self.strategy_sensitivity

    @property
    def participation(self) -> correlated.Participation:
        """At which steps one example can take part."""
        return participation_of(
            self._sampler, self.num_examples, self.expected_batch_size
        )

    @property
    def is_amplified(self) -> bool:
        """Whether the account counts on sampling: few enough bands, drawn by throws."""
        return is_amplified(self._sampler, self.strategy, self.num_steps)

    @property
    def strategy_sensitivity(self) -> correlated.Sensitivity:
        """L2 sensitivity of C: over all participations, or of one where amplified."""
        return self._strategy_sensitivity(self.num_steps)

    @property
    def noise_stddevs(self) -> np.ndarray:
        """Standard deviation of the noise in each value of the averages, by step."""
        rows = self.strategy.variances(self.num_steps, np.eye(1, self.num_steps)[0])
        return self._draws_stddev() / self.expected_batch_size * np.sqrt(rows)

    def optimizer(
        self, optimizer: optax.GradientTransformation, key: KeyLike | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """Make a plain optax optimizer private with this mechanism's noise.

        What `privacy_spent` reads off its state is the cost of the whole plan from the
        first step on (where amplified, of the periods begun), for neighbours of which
        one has an example that contributes nothing; otherwise `epsilon` has it.
        """
        private = correlated_aggregate(
            self.l2_norm_clip,
            self._noise(),
            self.strategy,
            key,
            num_steps=self.num_steps,
            participation=self.participation,
            expected_batch_size=self.expected_batch_size,
            sampling_prob=self.sampling_prob if self.is_amplified else None,
        )
        return optax.chain(private, optimizer)

    def describe(self) -> dict[str, Any]:
        """Return every public constant, ready for JSON."""
        multiplier = self._noise()
        return (
            self._describe_batches()
            | self.strategy.describe()
            | {
                "participation": repr(self.participation),
                "strategy_sensitivity": self.strategy_sensitivity.value,
                "strategy_sensitivity_is_exact": self.strategy_sensitivity.exact,
                "amplified": self.is_amplified,
                "l2_norm_clip": describe_clip(self.l2_norm_clip),
                "noise_multiplier": multiplier,
                "neighboring_relation": RELATION_WORDS[self.neighboring_relation],
                "sensitivity": self.sensitivity,
                "noise_std": self._draws_stddev(),
                "event": repr(self.event()),
            }
        )

    @property
    def _sampler(self) -> sampling.Sampler:
        return sampling.Deterministic() if self.sampler is None else self.sampler

    def _draws_stddev(self) -> float:
        """Return the standard deviation of the values of Z."""
        scale = self.strategy_sensitivity.value
        return self._noise() * self.sensitivity * scale

    def _strategy_sensitivity(self, steps: int) -> correlated.Sensitivity:
        return strategy_sensitivity(
            self.strategy, steps, self.participation, self.is_amplified
        )

    def _event(self, noise_multiplier: float, steps: int) -> dp_accounting.DpEvent:
        if self.is_amplified:
            return self._sampler.event(
                noise_multiplier=noise_multiplier,
                num_examples=self.num_examples,
                expected_batch_size=self.expected_batch_size,
                num_steps=steps,
                relation=self.neighboring_relation,
            )
        if not steps:
            return dp_accounting.NoOpDpEvent()
        whole = self.strategy_sensitivity.value
        part = min(whole, self._strategy_sensitivity(steps).value)
        return dp_accounting.GaussianDpEvent(noise_multiplier * (whole / part))
