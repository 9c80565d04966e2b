"""What the words of the flags stand for: samplers, clipping rules, optimizers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

from dpjax import optimizers, sampling
from dpjax.clipping import rules
from dpjax.mechanism import DPSGD, NonPrivate
from dpjax.sampling import Sampler

SAMPLERS: dict[str, type[Sampler]] = {
    "poisson": sampling.Poisson,
    "truncated_poisson": sampling.TruncatedPoisson,
    "cyclic_poisson": sampling.CyclicPoisson,
    "fixed_size": sampling.FixedSize,
    "fixed_size_with_replacement": sampling.FixedSizeWithReplacement,
    "deterministic": sampling.Deterministic,
    "shuffle": sampling.ShuffledEpochs,
}
"""The samplers by the words of --sampling."""


def _adaptive(l2_norm_clip: float, **options: float) -> optimizers.AdaptiveClip:
    return optimizers.AdaptiveClip(initial_l2_norm_clip=l2_norm_clip, **options)


CLIPPING: dict[str, Callable[..., Any]] = {
    "norm": float,
    "per_layer": rules.PerLayer,
    "automatic": rules.Automatic,
    "per_sample_adaptive": rules.PerSampleAdaptive,
    "adaptive": _adaptive,
}
"""From --l2_norm_clip to what clips, by the words of --clipping."""


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
    mechanism: DPSGD | NonPrivate


def _momentum(behind: Behind) -> optax.GradientTransformation:
    return optax.sgd(behind.rate, 0.9 if behind.momentum is None else behind.momentum)


def _adamw(behind: Behind) -> optax.GradientTransformation:
    decay = 1e-4 if behind.weight_decay is None else behind.weight_decay
    return optax.adamw(behind.rate, weight_decay=decay)


def _corrected_adam(behind: Behind) -> optax.GradientTransformation:
    if isinstance(behind.mechanism, NonPrivate):
        return optax.adam(behind.rate)
    return optimizers.corrected_adam(behind.rate, behind.mechanism.noise_stddev)


OPTIMIZERS: dict[str, Callable[[Behind], optax.GradientTransformation]] = {
    "sgd": lambda behind: optax.sgd(behind.rate),
    "momentum": _momentum,
    "adam": lambda behind: optax.adam(behind.rate),
    "adamw": _adamw,
    "corrected_adam": _corrected_adam,
}
"""The optimizers by the words of --optimizer."""
