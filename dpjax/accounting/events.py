"""Events taken apart: what was released, and how many times.

An accountant sees a flat list of (event, count) in which nothing is nested any more.
The library's own accountants walk the nesting themselves, and forget the count on the
way for some events; taking it apart once, here, is how no accountant can.
"""

import math
from typing import TypeAlias

import dp_accounting

from dpjax import _check
from dpjax._events import RandomAllocationDpEvent
from dpjax.accounting.epsilon import AccountingError

Event: TypeAlias = dp_accounting.DpEvent
Relation: TypeAlias = dp_accounting.NeighboringRelation
Parts: TypeAlias = list[tuple[Event, int]]
"""Distinct events that are not compositions, each with its count, at least 1."""

NON_PRIVATE = dp_accounting.NonPrivateDpEvent()

REFUSALS = (
    dp_accounting.UnsupportedEventError,
    ArithmeticError,
    NotImplementedError,
    TypeError,
    ValueError,
)
"""What dp_accounting's accountants raise for events, or numbers, that they refuse."""

_BATCHES = (
    dp_accounting.SampledWithReplacementDpEvent,
    dp_accounting.SampledWithoutReplacementDpEvent,
)


def take_apart(event: Event) -> Parts:
    """Return the distinct parts of `event` with their counts.

    All plain Gaussian releases become one, exactly: n releases with noise multipliers
    s_1, ..., s_n are worth a single one with s = (sum_i 1 / s_i^2)^(-1/2), which is
    also what sampling is applied to. Releases without noise become `NON_PRIVATE`,
    and what releases nothing (no step, no sampling, endless noise) is left out.

    Args:
      event: a `dp_accounting.DpEvent`.

    Returns:
      A list of (event, count); empty when nothing was released.

    Raises:
      TypeError: `event` is no `DpEvent`, or a count is no integer.
      ValueError: a count, a noise multiplier or a sampling probability is out of range.
      AccountingError: the event samples something that is not a Gaussian release.
    """
    precision = 0.0
    counts: dict[str, int] = {}
    parts: dict[str, Event] = {}
    for part, count in _walk(event, 1):
        if isinstance(part, dp_accounting.GaussianDpEvent):
            precision += count / part.noise_multiplier**2
        else:
            # Some events hold lists and have no hash; their text is exact.
            parts[repr(part)] = part
            counts[repr(part)] = counts.get(repr(part), 0) + count
    flat = [(part, counts[text]) for text, part in parts.items()]
    if precision > 0:
        flat.append((dp_accounting.GaussianDpEvent(precision**-0.5), 1))
    return flat


def _walk(event: Event, count: int) -> Parts:
    """List the parts of `event`, composed `count` times, in order."""
    if not isinstance(event, dp_accounting.DpEvent):
        _check.fail("a dp_accounting.DpEvent", "event", event, TypeError)
    if isinstance(event, dp_accounting.SelfComposedDpEvent):
        times = _check.integer("SelfComposedDpEvent.count", event.count, minimum=0)
        return _walk(event.event, count * times)
    if isinstance(event, dp_accounting.ComposedDpEvent):
        return [part for inner in event.events for part in _walk(inner, count)]
    if count == 0 or isinstance(event, dp_accounting.NoOpDpEvent):
        return []
    if isinstance(event, dp_accounting.GaussianDpEvent):
        return _gaussian(event.noise_multiplier, count)
    if isinstance(event, dp_accounting.PoissonSampledDpEvent):
        return _sampled(event, count)
    if isinstance(event, _BATCHES):
        return _batch(event, count)
    if isinstance(event, dp_accounting.TruncatedSubsampledGaussianDpEvent):
        return _truncated(event, count)
    if isinstance(event, RandomAllocationDpEvent):
        return _allocated(event, count)
    if isinstance(event, dp_accounting.dp_event.RepeatAndSelectDpEvent):
        return _repeated(event, count)
    return [(event, count)]


def _gaussian(noise_multiplier: float, count: int) -> Parts:
    if noise_multiplier == math.inf:
        return []
    sigma = _check.non_negative("GaussianDpEvent.noise_multiplier", noise_multiplier)
    # Beyond these, squares leave the range of floats; both ends are rounded safely.
    if sigma < 1e-100:
        return [(NON_PRIVATE, count)]
    return [(dp_accounting.GaussianDpEvent(min(sigma, 1e100)), count)]


def _repeated(
    event: dp_accounting.dp_event.RepeatAndSelectDpEvent, count: int
) -> Parts:
    """List the best of a random number of runs; nothing, where a run is nothing."""
    inner = take_apart(event.event)
    if any(part == NON_PRIVATE for part, _ in inner):
        return [(NON_PRIVATE, count)]
    return [(event, count)] if inner else []


def _sampled(event: dp_accounting.PoissonSampledDpEvent, count: int) -> Parts:
    name = "PoissonSampledDpEvent.sampling_probability"
    rate = _check.non_negative(name, event.sampling_probability)
    if rate > 1:
        _check.fail("a number in [0, 1]", name, rate)
    if rate == 0:
        return []
    if rate == 1:
        return _walk(event.event, count)
    inner = _inside(event, event.event)
    if inner is None or inner == NON_PRIVATE:
        return [(NON_PRIVATE, count)] if inner else []
    # Below, densities leave the range of floats; a larger rate costs more.
    return [(dp_accounting.PoissonSampledDpEvent(max(rate, 1e-200), inner), count)]


def _inside(event: Event, inside: Event) -> Event | None:
    """Return the one release to which `event` applies sampling; None for none."""
    inner = take_apart(inside)
    if any(part == NON_PRIVATE for part, _ in inner):
        return NON_PRIVATE
    if len(inner) > 1 or any(count > 1 for _, count in inner):
        what = "a Gaussian release, or another single one, inside of sampling"
        _check.fail(what, "event", event, AccountingError)
    return inner[0][0] if inner else None


def _batch(event: Event, count: int) -> Parts:
    """List a batch of fixed size, drawn with or without replacement."""
    name = type(event).__name__
    most = _check.integer(
        f"{name}.source_dataset_size", event.source_dataset_size, minimum=1
    )
    size = _check.integer(f"{name}.sample_size", event.sample_size, minimum=0)
    if size > most and isinstance(event, _BATCHES[1]):
        _check.fail(f"at most {most} examples", f"{name}.sample_size", size)
    inner = _inside(event, event.event)
    if size == 0 or inner is None:
        return []
    if inner == NON_PRIVATE:
        return [(NON_PRIVATE, count)]
    if not isinstance(inner, dp_accounting.GaussianDpEvent):
        what = "a Gaussian release inside of sampling batches of fixed size"
        _check.fail(what, "event", event, AccountingError)
    return [(type(event)(most, size, inner), count)]


def _allocated(event: RandomAllocationDpEvent, count: int) -> Parts:
    """List a release in some random steps."""
    name = type(event).__name__
    most = _check.integer(f"{name}.num_steps", event.num_steps, minimum=1)
    size = _check.integer(
        f"{name}.num_participations", event.num_participations, minimum=1
    )
    if size > most:
        _check.fail(f"at most {most} steps", f"{name}.num_participations", size)
    inner = _inside(event, event.event)
    if inner is None:
        return []
    if inner == NON_PRIVATE:
        return [(NON_PRIVATE, count)]
    if not isinstance(inner, dp_accounting.GaussianDpEvent):
        what = "a Gaussian release inside of random allocation"
        _check.fail(what, "event", event, AccountingError)
    if size == most:
        return [(inner, count * size)]
    return [(RandomAllocationDpEvent(most, size, inner), count)]


def _truncated(
    event: dp_accounting.TruncatedSubsampledGaussianDpEvent, count: int
) -> Parts:
    """List Poisson samples of which all but so many examples are left out."""
    name = type(event).__name__
    size = _check.integer(f"{name}.dataset_size", event.dataset_size, minimum=0)
    limit = _check.integer(
        f"{name}.truncated_batch_size", event.truncated_batch_size, minimum=0
    )
    gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
    rate = event.sampling_probability
    whole = _walk(dp_accounting.PoissonSampledDpEvent(rate, gaussian), count)
    if size == 0 or limit == 0:
        return []
    if size <= limit or not whole or whole[0][0] == NON_PRIVATE:
        return whole
    return [(type(event)(size, rate, limit, _noise(whole[0][0])), count)]


def _noise(part: Event) -> float:
    inner = getattr(part, "event", part)
    return float(inner.noise_multiplier)
