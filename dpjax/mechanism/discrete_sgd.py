"""DP-SGD with discrete Gaussian noise as one value."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self

import dp_accounting
import numpy as np
import optax

from dpjax import _check, accounting, clipping, sampling
from dpjax.accounting import AccountingError
from dpjax.mechanism.clip_norms import describe_clip
from dpjax.mechanism.private import PrivateBatches
from dpjax.mechanism.relations import RELATION_WORDS
from dpjax.optimizers.discrete_aggregate import (
    ROUNDINGS,
    discrete_aggregate,
    discrete_event,
)
from dpjax.optimizers.grid import check_exact, checked_granularity, exact_granularity
from dpjax.optimizers.grid_noise import Grid
from dpjax.optimizers.rounded_grad import rounded_grad
from dpjax.types import KeyLike, LossFn

_SAMPLERS = (sampling.Deterministic, sampling.ShuffledEpochs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPDiscreteSGD(PrivateBatches):
    """DP-SGD whose noise is integers on a grid, for those who fear floating point.

    It is `DPSGD` but for the noise: the clipped sum is rounded to a grid, and what is
    added is discrete Gaussian, drawn by integer arithmetic on the host. It is accounted
    for by zero-concentrated privacy, since for vectors no more is proven of it; epsilon
    is a little larger than that of continuous noise of the same size.

    | sampler          | steps that one example takes part in | amplified |
    | ---------------- | ------------------------------------ | --------- |
    | `Deterministic`  | one an epoch                         | no        |
    | `ShuffledEpochs` | one an epoch                         | no        |

    What is rounded is the sum, by any engine; or, for more time, each example, so that
    sums in float32 are exact too:

    | rounding   | engines        | what floats may still show                   |
    | ---------- | -------------- | -------------------------------------------- |
    | "sum"      | all            | the rounding of the sum, about batch * 2^-24 |
    | "examples" | "auto", "vmap" | nothing                                      |

    Attributes:
      num_examples: size of the data set, assumed public.
      expected_batch_size: size of a batch and the divisor of the noised sum.
      num_steps: steps planned.
      l2_norm_clip: clip norm > 0, a prefix pytree of such, or a clipping rule.
      granularity: step of the grid, a power of two. None takes the largest with which
        rounding the sum adds at most 0.1 % to the sensitivity; of "examples", the
        finest on which sums are exact.
      rounding: "sum" or "examples".
      noise_multiplier: noise standard deviation over the sensitivity of the rounded
        sum, >= 0; `None` until `calibrate` has solved for it.
      sampler: one of the table; `None` is `sampling.Deterministic()`.
      relation: neighbouring relation; `None` and REPLACE_SPECIAL are the sampler's own.
      static_batch_size: rows of a padded chunk; `None` chooses them.

    Guarantee:
      Training with `batches`, `clipped_grad` and `optimizer` of one value, with one
      secret key, is (epsilon, delta)-DP with `epsilon(delta)`, for neighbours of which
      one has, in an example's place, one that contributes nothing. Each step that the
      example is in is 1 / (2 noise_multiplier^2)-zCDP, rounding included: see
      `optimizers.discrete_aggregate`.

    Raises:
      ValueError: settings out of range.
      AccountingError: a sampler or a relation that has no sound account.
      TypeError: settings of the wrong type, an `AdaptiveClip` among them.

    References:
      Canonne, Kamath and Steinke (2020), The discrete Gaussian for differential
      privacy, arXiv 2004.00010, theorem 14 and proposition 12.

    >>> plan = DPDiscreteSGD(num_examples=4000, expected_batch_size=1000, num_steps=40,
    ...                      l2_norm_clip=1.0).calibrate(target_epsilon=3.0, delta=1e-4)
    >>> bool(plan.epsilon(1e-4) <= 3.0)
    True
    """

    num_examples: int
    expected_batch_size: float
    num_steps: int
    l2_norm_clip: Any
    granularity: float | None = None
    rounding: str = "sum"
    noise_multiplier: float | None = None
    sampler: sampling.Sampler | None = None
    relation: dp_accounting.NeighboringRelation | None = None
    static_batch_size: int | None = None

    def __post_init__(self) -> None:
        self._check_batches()
        if type(self._sampler) not in _SAMPLERS:
            expected = "Deterministic or ShuffledEpochs: no other amplifies this noise"
            _check.fail(expected, "sampler", self._sampler, AccountingError)
        self._check_private()
        if self.neighboring_relation != self._sampler.relation:
            expected = f"{self._sampler.relation} with discrete noise"
            _check.fail(expected, "relation", self.relation, AccountingError)
        if self.granularity is not None:
            self._keep("granularity", lambda _, value: checked_granularity(value))
        _check.choice("rounding", self.rounding, ROUNDINGS)
        if self.by_example:
            size, step = self.expected_batch_size, self.granularity
            step = step or exact_granularity(self.sensitivity, size)
            check_exact(step, self.sensitivity, size)
            object.__setattr__(self, "granularity", step)

    @property
    def by_example(self) -> bool:
        """Whether each example is rounded, and not the sum."""
        return self.rounding == "examples"

    def epsilon(
        self, delta: float, *, step: int | None = None, accountant: str = "exact"
    ) -> accounting.Epsilon:
        """Return the epsilon after `step` steps (all of them when `None`).

        Args:
          delta: in [0, 1).
          step: steps taken, at most `num_steps`.
          accountant: "exact", "pld" or "rdp". All of them answer with the bound of zCDP
            by the Renyi accountant, as `.method` says: nothing tighter is known.
        """
        return super().epsilon(delta, step=step, accountant=_known(accountant))

    def epsilon_curve(
        self, delta: float, steps: Sequence[int], *, accountant: str = "exact"
    ) -> np.ndarray:
        """Return epsilon after each of `steps`: (n,) numbers, at most `num_steps`."""
        events = [repr(self._event(self._noise(), self._steps(s))) for s in steps]
        first = {event: step for step, event in zip(steps, events, strict=True)}
        found = {
            event: self.epsilon(delta, step=step, accountant=accountant)
            for event, step in first.items()
        }
        return np.array([found[event] for event in events], np.float64)

    def calibrate(
        self, target_epsilon: float, delta: float, *, accountant: str = "exact"
    ) -> Self:
        """Return a copy with the least noise whose epsilon is at most the target.

        Raises:
          AccountingError: no noise reaches the target, or every noise does.
        """
        known = _known(accountant)
        return super().calibrate(target_epsilon, delta, accountant=known)

    def noise_stddev(self, num_parameters: int) -> float:
        """Return the noise's standard deviation in each value of the released average.

        Args:
          num_parameters: of the model: rounding counts each of them.
        """
        size = _check.integer("num_parameters", num_parameters, minimum=1)
        grid = Grid.of(
            self.sensitivity,
            self._noise(),
            self.granularity,
            size,
            rounded=self.by_example,
        )
        return grid.stddev * grid.step / self.expected_batch_size

    def clipped_grad(
        self, loss_fn: LossFn, **options: Any
    ) -> Callable[..., clipping.ClippedGrads]:
        """Return `clipping.clipped_grad` with this mechanism's clip norm.

        Where examples are rounded it is `optimizers.rounded_grad`, of fewer options.
        """
        if self.granularity is None or not self.by_example:
            return super().clipped_grad(loss_fn, **options)
        return rounded_grad(loss_fn, self.l2_norm_clip, self.granularity, **options)

    def optimizer(
        self, optimizer: optax.GradientTransformation, key: KeyLike | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """Make a plain optax optimizer private with this mechanism's noise.

        What `privacy_spent` reads off its state takes every step for one that the
        example is in; `epsilon` is the statement.
        """
        private = discrete_aggregate(
            self.l2_norm_clip,
            self._noise(),
            key,
            granularity=self.granularity,
            rounding=self.rounding,
            expected_batch_size=self.expected_batch_size,
        )
        return optax.chain(private, optimizer)

    def describe(self) -> dict[str, Any]:
        """Return every public constant, ready for JSON."""
        return self._describe_batches() | {
            "noise": "discrete Gaussian",
            "granularity": self.granularity,
            "rounding": self.rounding,
            "l2_norm_clip": describe_clip(self.l2_norm_clip),
            "noise_multiplier": self._noise(),
            "neighboring_relation": RELATION_WORDS[self.neighboring_relation],
            "sensitivity": self.sensitivity,
            "event": repr(self.event()),
        }

    @property
    def _sampler(self) -> sampling.Sampler:
        return sampling.Deterministic() if self.sampler is None else self.sampler

    def _event(self, noise_multiplier: float, steps: int) -> dp_accounting.DpEvent:
        continuous = self._sampler.event(
            noise_multiplier=noise_multiplier,
            num_examples=self.num_examples,
            expected_batch_size=self.expected_batch_size,
            num_steps=steps,
            relation=self.neighboring_relation,
        )
        if not isinstance(continuous, dp_accounting.SelfComposedDpEvent):
            return continuous
        one = discrete_event(noise_multiplier)
        return dp_accounting.SelfComposedDpEvent(one, continuous.count)


def _known(accountant: str) -> str:
    """Return the accountant that answers: no privacy loss distribution is known."""
    return "exact" if accountant == "pld" else accountant
