"""The same loop without privacy, as a mechanism."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import dp_accounting
import optax

from dpjax import accounting, clipping, optimizers, sampling
from dpjax.mechanism.batches import Batches
from dpjax.types import KeyLike, LossFn


@dataclasses.dataclass(frozen=True, kw_only=True)
class NonPrivate(Batches):
    """The same loop without privacy: nothing is clipped, no noise, epsilon infinite.

    Attributes:
      num_examples: size of the data set.
      expected_batch_size: mean batch size, and the divisor.
      num_steps: steps planned.
      sampler: as in `DPSGD`.
      static_batch_size: as in `DPSGD`.
    """

    num_examples: int
    expected_batch_size: float
    num_steps: int
    sampler: sampling.Sampler | None = None
    static_batch_size: int | None = None

    def __post_init__(self) -> None:
        self._check_batches()

    @property
    def sensitivity(self) -> float:
        """Infinity: one example can move the sum by any amount."""
        return math.inf

    def event(self) -> dp_accounting.DpEvent:
        """Return the event of a release without privacy (of none, for 0 steps)."""
        return _event(self.num_steps)

    def epsilon(
        self, delta: float, *, step: int | None = None, accountant: str = "exact"
    ) -> accounting.Epsilon:
        """Return infinity (0 after 0 steps)."""
        event = _event(self._steps(step))
        return accounting.event_epsilon(event, delta, accountant=accountant)

    def ledger(
        self, *, step: int | None = None, label: str = "training"
    ) -> accounting.PrivacyLedger:
        """Return a ledger that says that nothing is promised of `step` steps."""
        ledger = accounting.PrivacyLedger()
        ledger.spend(_event(self._steps(step)), label)
        return ledger

    def clipped_grad(
        self, loss_fn: LossFn, **options: Any
    ) -> Callable[..., clipping.ClippedGrads]:
        """Return `clipping.summed_grad`: the ordinary gradient, nothing clipped."""
        return clipping.summed_grad(loss_fn, **options)

    def optimizer(
        self, optimizer: optax.GradientTransformation, key: KeyLike | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """Return the optimizer on averages without noise; `key` is not used."""
        del key
        average = optimizers.average_gradients(self.expected_batch_size)
        return optax.chain(average, optimizer)

    def describe(self) -> dict[str, Any]:
        """Return every constant, ready for JSON."""
        return self._describe_batches() | {
            "l2_norm_clip": None,
            "noise_multiplier": 0.0,
            "neighboring_relation": None,
            "sensitivity": None,
            "noise_std": 0.0,
            "event": repr(self.event()),
        }


def _event(steps: int) -> dp_accounting.DpEvent:
    if steps == 0:
        return dp_accounting.NoOpDpEvent()
    return dp_accounting.NonPrivateDpEvent()
