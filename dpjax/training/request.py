"""What the caller of `fit` asked for, checked where no data is needed for it."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import optax

from dpjax import _check
from dpjax.accounting import FilterFile, PrivacyFilter
from dpjax.mechanism import NonPrivate, PrivateBatches
from dpjax.training.checkpoints import Checkpointing
from dpjax.training.losses import Loss
from dpjax.training.placement import Placement
from dpjax.types import KeyLike, Params

Mechanism = PrivateBatches | NonPrivate
Evaluate = Callable[[Params], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Logging:
    """What is written down and shown while a run goes on.

    Attributes:
      every: steps between lines of metrics; the last step has one too.
      evaluate_every: steps between evaluations, a multiple of `every`; None is `every`.
      progress: whether a bar (or plain lines) and the closing lines are shown.
    """

    every: int = 10
    evaluate_every: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        _check.integer("every", self.every, minimum=1)
        if self.evaluate_every is None:
            return
        _check.integer("evaluate_every", self.evaluate_every, minimum=1)
        if self.evaluate_every % self.every:
            expected = f"a multiple of every={self.every}"
            _check.fail(expected, "evaluate_every", self.evaluate_every)

    @property
    def evaluation_steps(self) -> int:
        """Return the number of steps between evaluations."""
        return self.evaluate_every or self.every


@dataclasses.dataclass(frozen=True)
class Request:
    """The arguments of `fit`; see there."""

    mechanism: Mechanism
    loss: Loss
    params: Params
    data: Any
    optimizer: optax.GradientTransformation
    key: KeyLike | None
    run_dir: pathlib.Path | None
    resume: bool
    delta: float | None
    max_epsilon: float | None
    evaluate: Evaluate | None
    ema_decay: float | None
    logging: Logging
    checkpointing: Checkpointing
    settings: Mapping[str, Any]
    memory_budget: int | None = None
    placement: Placement | None = None
    privacy_filter: PrivacyFilter | FilterFile | None = None
    unit: str = "example"

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        if not isinstance(self.mechanism, Mechanism):
            expected = (
                "a mechanism (DPSGD, DPStagedSGD, DPIndividualSGD, DPDiscreteSGD, "
                "DPMatrixFactorization, NonPrivate)"
            )
            _check.fail(expected, "mechanism", self.mechanism, TypeError)
        _check.float_leaves("params", self.params)
        if not isinstance(self.placement, Placement | None):
            _check.fail("a Placement", "placement", self.placement, TypeError)
        if self.ema_decay is not None:
            _check.open_unit("ema_decay", self.ema_decay)
        if self.evaluate is not None and not callable(self.evaluate):
            expected = "a function of the parameters"
            _check.fail(expected, "evaluate", self.evaluate, TypeError)
        self._check_unit()
        self._check_spending()
        self._check_filter()
        self._check_memory()

    def _check_unit(self) -> None:
        if not isinstance(self.unit, str):
            _check.fail("a word or a few", "unit", self.unit, TypeError)
        if not self.unit.strip():
            _check.fail("a word or a few", "unit", self.unit)

    def _check_memory(self) -> None:
        size = self.loss.microbatch_size
        if isinstance(size, str):
            _check.choice("microbatch_size", size, ("auto",))
        if self.memory_budget is None:
            return
        _check.integer("memory_budget", self.memory_budget, minimum=1)
        if size != "auto":
            expected = 'microbatch_size="auto" (memory_budget is its budget)'
            _check.fail(expected, "microbatch_size", size)

    def _check_filter(self) -> None:
        shared = self.privacy_filter
        if not isinstance(shared, PrivacyFilter | FilterFile | None):
            expected = "a PrivacyFilter or a FilterFile"
            _check.fail(expected, "privacy_filter", shared, TypeError)
        if shared is None:
            return
        if isinstance(self.mechanism, NonPrivate):
            expected = "no budget for a run without privacy"
            _check.fail(expected, "privacy_filter", shared)
        self.mechanism.check_filter(shared)

    def _check_spending(self) -> None:
        if self.delta is not None:
            _check.open_unit("delta", self.delta)
        if self.max_epsilon is not None:
            _check.positive("max_epsilon", self.max_epsilon)
            if not self.is_private:
                expected = "no budget for a run without privacy"
                _check.fail(expected, "max_epsilon", self.max_epsilon)
        bound_to_report = self.max_epsilon is not None or self.run_dir is not None
        if self.delta is None and self.is_private and bound_to_report:
            expected = "a number in (0, 1) (run_dir and max_epsilon need it)"
            _check.fail(expected, "delta", self.delta, TypeError)

    @property
    def is_private(self) -> bool:
        """Tell whether the mechanism adds noise at all."""
        return not isinstance(self.mechanism, NonPrivate)
