"""What flags of a training script mean: a mechanism, an optimizer, a call of fit."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import optax

from dpjax import _check, accounting, optimizers
from dpjax.mechanism import (
    DPSGD,
    DPDiscreteSGD,
    DPIndividualSGD,
    DPMatrixFactorization,
    DPStagedSGD,
    NonPrivate,
    PrivateBatches,
)
from dpjax.mechanism.factorization_events import participation_of
from dpjax.sampling import Sampler
from dpjax.training import sharing
from dpjax.training.catalogue import (
    CLIPPING,
    OF_CLIPPING,
    OPTIMIZERS,
    SAMPLERS,
    STRATEGIES,
    Behind,
    FlagError,
    Horizon,
)
from dpjax.training.checkpoints import Checkpointing
from dpjax.training.request import Logging

SCHEDULES = ("constant", "cosine", "warmup")
ENGINES = ("auto", "bookkeeping", "vmap")
OF_SAMPLERS = ("max_batch_size", "period", "total_participations", "min_separation")
"""The flags that one sampler each takes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The flags of `flags.define_flags`, checked against each other.

    Attributes are the flags, by their names.
    """

    private: bool
    l2_norm_clip: float | None
    clipping: str
    target_quantile: float | None
    final_l2_norm_clip: float | None
    stability: float | None
    tables: str | None
    row_threshold: float | None
    noise_multiplier: float | None
    target_epsilon: float | None
    delta: float | None
    max_epsilon: float | None
    budget_file: str | None
    budget_epsilon: float | None
    take_rest: bool | None
    sampling: str
    max_batch_size: int | None
    period: int | None
    total_participations: int | None
    min_separation: int | None
    noise: str
    noise_ratio: float | None
    full_steps: int | None
    granularity: float | None
    rounding: str | None
    correlated_noise: str
    bands: int | None
    batch_size: int
    epochs: float | None
    steps: int | None
    optimizer: str
    learning_rate: float
    momentum: float | None
    weight_decay: float | None
    schedule: str
    warmup_steps: int | None
    sharpness_radius: float | None
    ema_decay: float | None
    microbatch_size: int | str | None
    memory_budget: int | None
    engine: str
    seed: int | None
    run_dir: str | None
    resume: bool
    log_every: int
    checkpoint_every: int
    progress: bool

    def __post_init__(self) -> None:
        """Check each number by itself."""
        for name in (
            "l2_norm_clip",
            "noise_multiplier",
            "target_epsilon",
            "max_epsilon",
            "budget_epsilon",
            "epochs",
            "learning_rate",
            "final_l2_norm_clip",
            "stability",
            "row_threshold",
            "sharpness_radius",
            "granularity",
            "noise_ratio",
        ):
            if getattr(self, name) is not None:
                _check.positive(f"--{name}", getattr(self, name))
        for name in ("delta", "ema_decay", "momentum", "target_quantile"):
            if getattr(self, name) is not None:
                _check.open_unit(f"--{name}", getattr(self, name))
        if self.weight_decay is not None:
            _check.non_negative("--weight_decay", self.weight_decay)

    def num_steps(self, num_examples: int) -> int:
        """Return the steps to take; a part of a step counts as one."""
        if self.steps is not None:
            return self.steps
        epochs = self.epochs or 0.0
        return math.ceil(epochs * num_examples / self.batch_size)

    def sampler(self) -> Sampler:
        """Return what draws the batches."""
        return SAMPLERS[self.sampling](**self._given(OF_SAMPLERS))

    def _given(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the flags of these names that were given."""
        options = {name: getattr(self, name) for name in names}
        return {name: value for name, value in options.items() if value is not None}

    def mechanism(self, num_examples: int) -> PrivateBatches | NonPrivate:
        """Return the mechanism for a data set, its noise solved for if need be.

        Args:
          num_examples: size of the training set.

        Raises:
          FlagError: the batch is larger than the data.
          ValueError: no noise reaches the target epsilon, or the sampler has no account
            with correlated noise.
        """
        if self.batch_size > num_examples:
            raise FlagError(
                f"Expected --batch_size of at most the {num_examples} examples, got "
                f"--batch_size={self.batch_size}."
            )
        batches: dict[str, Any] = {
            "num_examples": num_examples,
            "expected_batch_size": self.batch_size,
            "num_steps": self.num_steps(num_examples),
            "sampler": self.sampler(),
        }
        if not self.private:
            return NonPrivate(**batches)
        private = self._private(batches)
        shared = self.privacy_filter(private)
        if self.take_rest and shared is not None:
            resumed = self.run_dir if self.resume else None
            return sharing.with_rest(private, shared, resumed)
        if self.target_epsilon is None or self.delta is None:
            return private
        return private.calibrate(self.target_epsilon, self.delta)

    def _private(self, batches: dict[str, Any]) -> PrivateBatches:
        """Return the mechanism with the noise multiplier that is given, if one is."""
        own = self._given(OF_CLIPPING)
        if self.clipping == "scheduled":
            own["num_steps"] = batches["num_steps"]
        settings = batches | {
            "l2_norm_clip": CLIPPING[self.clipping](self.l2_norm_clip, **own),
            "noise_multiplier": self.noise_multiplier,
        }
        if self.noise == "discrete":
            rounding = self.rounding or "sum"
            return DPDiscreteSGD(
                granularity=self.granularity, rounding=rounding, **settings
            )
        if self.noise_ratio is not None:
            return DPStagedSGD(final_noise_ratio=self.noise_ratio, **settings)
        if self.full_steps is not None:
            return DPIndividualSGD(full_steps=self.full_steps, **settings)
        if self.correlated_noise == "none":
            return DPSGD(**settings)
        participation = participation_of(
            batches["sampler"], batches["num_examples"], self.batch_size
        )
        horizon = Horizon(batches["num_steps"], participation, self.bands)
        strategy = STRATEGIES[self.correlated_noise](horizon)
        return DPMatrixFactorization(strategy=strategy, **settings)

    def privacy_filter(
        self, mechanism: PrivateBatches | NonPrivate
    ) -> accounting.FilterFile | None:
        """Return the budget that the run shares with others, or None without one."""
        if self.budget_file is None or not isinstance(mechanism, PrivateBatches):
            return None
        return sharing.filter_file(
            self.budget_file,
            (self.budget_epsilon, self.delta),
            mechanism.neighboring_relation,
        )

    def optax_optimizer(
        self, mechanism: PrivateBatches | NonPrivate
    ) -> optax.GradientTransformation:
        """Return the optimizer with its schedule, not yet private.

        Args:
          mechanism: of the run, to whose length the schedule is fitted.
        """
        rate = self._schedule(mechanism.num_steps)
        behind = Behind(rate, self.momentum, self.weight_decay, mechanism)
        optimizer = OPTIMIZERS[self.optimizer](behind)
        if self.sharpness_radius is None:
            return optimizer
        return optimizers.sharpness_aware(optimizer, self.sharpness_radius)

    def _schedule(self, num_steps: int) -> optax.ScalarOrSchedule:
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "cosine":
            return optax.cosine_decay_schedule(self.learning_rate, num_steps)
        rise = self.warmup_steps or max(1, num_steps // 10)
        return optax.linear_schedule(
            self.learning_rate / rise, self.learning_rate, rise - 1
        )

    def fit_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `fit` that the flags decide."""
        return {
            "key": self.seed,
            "run_dir": None if self.run_dir is None else pathlib.Path(self.run_dir),
            "resume": self.resume,
            "delta": self.delta,
            "max_epsilon": self.max_epsilon,
            "ema_decay": self.ema_decay,
            "microbatch_size": self.microbatch_size,
            "memory_budget": self.memory_budget,
            "engine": self.engine,
            "logging": Logging(every=self.log_every, progress=self.progress),
            "checkpointing": Checkpointing(every=self.checkpoint_every),
        }
