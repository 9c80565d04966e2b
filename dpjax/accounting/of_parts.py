"""What is known of the parts of an event: their laws, and how much noise they have."""

import math

import dp_accounting

from dpjax import _check
from dpjax._events import RandomAllocationDpEvent
from dpjax.accounting import batches
from dpjax.accounting.epsilon import AccountingError
from dpjax.accounting.events import Event, Parts, Relation
from dpjax.accounting.grids.grid import Laws
from dpjax.accounting.laws import mixture, privacy_loss

_LEAST_NOISE = 1 / 16
"""A sampled release with less noise loses more than 100 nats: a bound will do."""

_MOST_STEPS = 10**10

_GAUSSIAN = dp_accounting.GaussianDpEvent


def is_gaussian(parts: Parts) -> bool:
    """Tell whether all `parts` are Gaussian releases, plain or Poisson sampled."""
    return all(_is_gaussian(part) for part, _ in parts)


def is_sampled(parts: Parts) -> bool:
    """Tell whether any of `parts` is sampled."""
    return any(_is_sampled(part) for part, _ in parts)


def unsampled(parts: Parts) -> Parts:
    """Return Gaussian `parts` without their sampling."""
    return [(getattr(part, "event", part), count) for part, count in parts]


def _is_sampled(part: Event) -> bool:
    return isinstance(part, dp_accounting.PoissonSampledDpEvent)


def _is_gaussian(part: Event) -> bool:
    """Tell whether `part` is a Gaussian release, plain or Poisson sampled."""
    inner = part.event if _is_sampled(part) else part
    return isinstance(inner, dp_accounting.GaussianDpEvent)


def pair(part: Event, relation: Relation) -> privacy_loss.SampledGaussian:
    """Return the pair of output laws of a Gaussian `part`."""
    replace_one = relation == Relation.REPLACE_ONE
    if _is_sampled(part):
        noise, rate = part.event.noise_multiplier, part.sampling_probability
        return privacy_loss.SampledGaussian(noise, rate, replace_one)
    return privacy_loss.SampledGaussian(part.noise_multiplier, 1.0, replace_one)


def _is_mixture(part: Event) -> bool:
    return isinstance(part, dp_accounting.dp_event.MixtureOfGaussiansDpEvent)


def has_laws(parts: Parts, relation: Relation) -> bool:
    """Tell whether the laws of all `parts` under `relation` are known here."""
    return all(
        _is_gaussian(part)
        or (_is_mixture(part) and relation != Relation.REPLACE_ONE)
        or batches.laws(part, relation) is not None
        for part, _ in parts
    )


def laws_of(part: Event, relation: Relation) -> Laws:
    """Return the pair of output laws of a `part` that has them."""
    if _is_mixture(part):
        return mixture.from_event(part)
    return batches.laws(part, relation) or pair(part, relation)


def fits_a_grid(parts: Parts) -> bool:
    """Tell whether all noise is large enough; raise where there are too many parts."""
    total = sum(count for _, count in parts)
    if total > _MOST_STEPS:
        what = f"at most {_MOST_STEPS} compositions, or accountant='rdp'"
        _check.fail(what, "count", total, AccountingError)
    sampled = [part for part, _ in parts if not isinstance(part, _GAUSSIAN)]
    return all(_common_noise(part) >= _LEAST_NOISE for part in sampled)


def _common_noise(part: Event) -> float:
    """Return the noise over the largest shift of `part` that is not a rare one."""
    if _is_mixture(part):
        shift = mixture.from_event(part).common_shift
        return 1 / shift if shift else math.inf
    if isinstance(part, dp_accounting.TruncatedSubsampledGaussianDpEvent):
        return part.noise_multiplier / 2
    noise = part.event.noise_multiplier
    is_one = _is_sampled(part) or isinstance(part, RandomAllocationDpEvent)
    return noise if is_one else noise / 2


def without_sampling(part: Event) -> dp_accounting.GaussianDpEvent:
    """Return the plain Gaussian release that costs at least what `part` does."""
    if _is_mixture(part):
        return _GAUSSIAN(1 / mixture.from_event(part).largest_shift)
    return part.event if _is_sampled(part) else part
