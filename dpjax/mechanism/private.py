"""What every private mechanism says of its cost."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self

import dp_accounting
import numpy as np
import optax

from dpjax import _check, accounting, clipping
from dpjax.mechanism.batches import Batches
from dpjax.mechanism.clip_norms import static_sensitivity
from dpjax.mechanism.relations import check_pair
from dpjax.types import KeyLike, LossFn


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivateBatches(Batches, abc.ABC):
    """Batches whose clipped sums are released with noise, under a relation.

    A mechanism says what some steps spend under some noise multiplier; all statements
    follow from that.
    """

    l2_norm_clip: Any
    noise_multiplier: float | None = None
    relation: dp_accounting.NeighboringRelation | None = None

    def _check_private(self) -> None:
        """Check the constants that are not those of batches."""
        check_pair(self._sampler, self.neighboring_relation)
        _ = self.sensitivity
        if self.noise_multiplier is not None:
            self._keep("noise_multiplier", _check.non_negative)

    @abc.abstractmethod
    def _event(self, noise_multiplier: float, steps: int) -> dp_accounting.DpEvent:
        """Return what the first `steps` steps spend."""

    @abc.abstractmethod
    def optimizer(
        self, optimizer: optax.GradientTransformation, key: KeyLike | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """Make a plain optax optimizer private with this mechanism's noise."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return every public constant, ready for JSON."""

    @property
    def sensitivity(self) -> float:
        """L2 sensitivity of one clipped sum when one example is added or removed."""
        return static_sensitivity(self.l2_norm_clip)

    @property
    def common_clip_norm(self) -> float | None:
        """The clip norm of all examples at all steps, None where there is not one."""
        clip = self.l2_norm_clip
        return float(clip) if isinstance(clip, int | float) else None

    @property
    def neighboring_relation(self) -> dp_accounting.NeighboringRelation:
        """The relation of the guarantee: the one asked for, or the sampler's own."""
        return self._sampler.relation if self.relation is None else self.relation

    def event(self) -> dp_accounting.DpEvent:
        """Return what all `num_steps` steps spend, with their noise in clip norms.

        It is to be accounted for under `neighboring_relation`, which says how far the
        sum moves (dp_accounting's Renyi accountant does not look at it).
        """
        return self._event(self._noise(), self.num_steps)

    def epsilon(
        self, delta: float, *, step: int | None = None, accountant: str = "exact"
    ) -> accounting.Epsilon:
        """Return the epsilon after `step` steps (all of them when `None`).

        Args:
          delta: in [0, 1).
          step: steps taken, at most `num_steps`.
          accountant: "exact", "pld" or "rdp".
        """
        event = self._event(self._noise(), self._steps(step))
        return accounting.event_epsilon(
            event, delta, accountant=accountant, relation=self.neighboring_relation
        )

    def epsilon_curve(
        self, delta: float, steps: Sequence[int], *, accountant: str = "exact"
    ) -> np.ndarray:
        """Return epsilon after each of `steps`: (n,) numbers, at most `num_steps`."""
        found = [self.epsilon(delta, step=s, accountant=accountant) for s in steps]
        return np.array(found, np.float64)

    def ledger(
        self,
        *,
        step: int | None = None,
        budget: accounting.Budget | None = None,
        label: str = "training",
    ) -> accounting.PrivacyLedger:
        """Return a ledger under `relation` with `step` steps (all when `None`) in it.

        What else is released of the same data is to be spent on it before.

        Args:
          step: steps taken, at most `num_steps`.
          budget: of the whole ledger.
          label: of the steps.

        Raises:
          BudgetExceeded: the steps alone pass the budget.
        """
        ledger = accounting.PrivacyLedger(budget, relation=self.neighboring_relation)
        ledger.spend(self._event(self._noise(), self._steps(step)), label)
        return ledger

    def calibrate(
        self, target_epsilon: float, delta: float, *, accountant: str = "exact"
    ) -> Self:
        """Return a copy with the least noise whose epsilon is at most the target.

        Raises:
          AccountingError: no noise reaches the target, or every noise does.
        """
        multiplier = accounting.calibrate_event(
            lambda candidate: self._event(candidate, self.num_steps),
            target_epsilon=target_epsilon,
            delta=delta,
            accountant=accountant,
            relation=self.neighboring_relation,
        )
        return dataclasses.replace(self, noise_multiplier=multiplier)

    def calibrate_to(
        self, privacy_filter: accounting.PrivacyFilter | accounting.FilterFile
    ) -> Self:
        """Return a copy with the least noise that a filter still admits.

        Nothing is spent. See `accounting.calibrate_to_filter`.

        Raises:
          AccountingError: next to nothing is left.
          ValueError: the filter has another neighbouring relation.
        """
        self.check_filter(privacy_filter)
        multiplier = accounting.calibrate_to_filter(
            lambda candidate: self._event(candidate, self.num_steps), privacy_filter
        )
        return dataclasses.replace(self, noise_multiplier=multiplier)

    def check_filter(
        self, privacy_filter: accounting.PrivacyFilter | accounting.FilterFile
    ) -> None:
        """Raise `ValueError` where a filter has another neighbouring relation."""
        if privacy_filter.relation != self.neighboring_relation:
            expected = f"a filter under {self.neighboring_relation}"
            _check.fail(expected, "relation", privacy_filter.relation)

    def clipped_grad(
        self, loss_fn: LossFn, **options: Any
    ) -> Callable[..., clipping.ClippedGrads]:
        """Return `clipping.clipped_grad` with this mechanism's clip norm."""
        return clipping.clipped_grad(loss_fn, self.l2_norm_clip, **options)

    def _noise(self) -> float:
        if self.noise_multiplier is None:
            raise ValueError(
                "Expected a noise multiplier, got noise_multiplier=None. Give one, or "
                "solve for it with calibrate(target_epsilon, delta)."
            )
        return self.noise_multiplier
