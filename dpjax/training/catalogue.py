"""What the words of the flags stand for: samplers, clipping, noise, optimizers."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import optax

from dpjax import optimizers, sampling
from dpjax.clipping import rules
from dpjax.mechanism import DPSGD, DPIndividualSGD, NonPrivate, PrivateBatches
from dpjax.noise import correlated
from dpjax.sampling import Sampler


class FlagError(ValueError):
    """Flags are missing, wrong or contradict each other."""


SAMPLERS: dict[str, type[Sampler]] = {
    "poisson": sampling.Poisson,
    "truncated_poisson": sampling.TruncatedPoisson,
    "cyclic_poisson": sampling.CyclicPoisson,
    "fixed_size": sampling.FixedSize,
    "fixed_size_with_replacement": sampling.FixedSizeWithReplacement,
    "deterministic": sampling.Deterministic,
    "shuffle": sampling.ShuffledEpochs,
    "balls_in_bins": sampling.BallsInBins,
    "random_allocation": sampling.RandomAllocation,
    "b_min_sep": sampling.BMinSep,
}
"""The samplers by the words of --sampling."""


def _adaptive(l2_norm_clip: float, **options: float) -> optimizers.AdaptiveClip:
    return optimizers.AdaptiveClip(initial_l2_norm_clip=l2_norm_clip, **options)


def _scheduled(
    l2_norm_clip: float, *, final_l2_norm_clip: float, num_steps: int
) -> optimizers.ScheduledClip:
    return optimizers.ScheduledClip(
        initial_l2_norm_clip=l2_norm_clip,
        final_l2_norm_clip=final_l2_norm_clip,
        num_steps=max(2, num_steps),
    )


def _scaled(l2_norm_clip: float, **options: float) -> optimizers.ScaledClip:
    return optimizers.ScaledClip(l2_norm_clip=l2_norm_clip, **options)


def _sparse_rows(
    l2_norm_clip: float, *, tables: str, row_threshold: float
) -> optimizers.SparseRowClip:
    return optimizers.SparseRowClip(
        l2_norm_clip=l2_norm_clip, tables=tables, threshold=row_threshold
    )


CLIPPING: dict[str, Callable[..., Any]] = {
    "norm": float,
    "per_layer": rules.PerLayer,
    "per_layer_by_dimension": functools.partial(rules.PerLayer, by="dimension"),
    "automatic": rules.Automatic,
    "normalised": functools.partial(rules.Automatic, stability=0.0),
    "per_sample_adaptive": rules.PerSampleAdaptive,
    "adaptive": _adaptive,
    "scheduled": _scheduled,
    "scaled": _scaled,
    "sparse_rows": _sparse_rows,
}
"""From --l2_norm_clip, and `OF_CLIPPING`, to what clips, by the words of --clipping."""

OF_CLIPPING = (
    "target_quantile",
    "final_l2_norm_clip",
    "stability",
    "tables",
    "row_threshold",
)
"""The flags that one way of clipping each takes."""


@dataclasses.dataclass(frozen=True)
class Horizon:
    """What a strategy of correlated noise is made for.

    Attributes:
      num_steps: steps of the run.
      participation: at which of them one example can take part.
      bands: diagonals, or buffers, that the noise remembers; None for as many as an
        epoch has steps, or lie between two participations (of buffers, 4).
    """

    num_steps: int
    participation: correlated.Participation
    bands: int | None

    @property
    def width(self) -> int:
        """Return the number of bands."""
        if self.bands is None and isinstance(
            self.participation, correlated.OncePerEpoch
        ):
            return min(self.num_steps, self.participation.period)
        return self.separate_width

    @property
    def separate_width(self) -> int:
        """Return the number of bands, where participations must not meet in one."""
        if self.bands is not None:
            return self.bands
        return min(self.num_steps, self.participation.separation(self.num_steps))


def _buffered(horizon: Horizon) -> correlated.Strategy:
    return correlated.optimize_buffered_toeplitz(
        horizon.num_steps, horizon.bands or 4, horizon.participation
    )


STRATEGIES: dict[str, Callable[[Horizon], correlated.Strategy]] = {
    "tree": lambda _: correlated.BinaryTree(),
    "square_root": lambda horizon: correlated.square_root(horizon.width),
    "toeplitz": lambda horizon: correlated.optimize_toeplitz(
        horizon.num_steps, horizon.width, horizon.participation
    ),
    "banded": lambda horizon: correlated.optimize_banded(
        horizon.num_steps, horizon.separate_width, horizon.participation
    ),
    "buffered_toeplitz": _buffered,
    "banded_inverse": lambda horizon: correlated.banded_inverse_square_root(
        horizon.width
    ),
}
"""How noise is correlated, by the words of --correlated_noise."""

NOISES = ("gaussian", "discrete")
"""What is added to the sum, by the words of --noise."""


@dataclasses.dataclass(frozen=True)
class Behind:
    """What an optimizer behind the noise is made of.

    Attributes:
      rate: learning rate, or its schedule.
      momentum: or None for the usual one.
      weight_decay: or None for the usual one.
      mechanism: whose noise the optimizer may know of.
    """

    rate: optax.ScalarOrSchedule
    momentum: float | None
    weight_decay: float | None
    mechanism: PrivateBatches | NonPrivate

    @property
    def usual_momentum(self) -> float:
        """Return the momentum, 0.9 where none is given."""
        return 0.9 if self.momentum is None else self.momentum


def _adamw(behind: Behind) -> optax.GradientTransformation:
    decay = 1e-4 if behind.weight_decay is None else behind.weight_decay
    return optax.adamw(behind.rate, weight_decay=decay)


def _moves(mechanism: PrivateBatches) -> bool:
    return isinstance(mechanism, DPSGD) and mechanism.is_adaptive


def _corrected_adam(behind: Behind) -> optax.GradientTransformation:
    mechanism = behind.mechanism
    if isinstance(mechanism, NonPrivate):
        return optax.adam(behind.rate)
    kinds = DPSGD | DPIndividualSGD
    if not isinstance(mechanism, kinds) or _moves(mechanism):
        raise FlagError(
            "Expected noise that is the same at every step with --optimizer="
            "corrected_adam, got --correlated_noise, --noise=discrete, or "
            "--clipping=adaptive, scheduled, scaled or sparse_rows."
        )
    return optimizers.corrected_adam(behind.rate, mechanism.noise_stddev)


OPTIMIZERS: dict[str, Callable[[Behind], optax.GradientTransformation]] = {
    "sgd": lambda behind: optax.sgd(behind.rate),
    "momentum": lambda behind: optax.sgd(behind.rate, behind.usual_momentum),
    "adam": lambda behind: optax.adam(behind.rate),
    "adamw": _adamw,
    "corrected_adam": _corrected_adam,
    "ftrl": lambda behind: optimizers.ftrl(behind.rate, behind.usual_momentum),
}
"""The optimizers by the words of --optimizer."""
