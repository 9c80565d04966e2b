"""One sampled release that costs at least what each of several does.

More noise is a release that was made noisier afterwards. A smaller sampling probability
is a mixture: with l = q / q', the outputs have the law l P' + (1 - l) N when q' has P'
and q = 0 has N, and a divergence of hockey sticks is convex in both laws and least
between N and N. So less noise and more sampling cost at least as much at every epsilon,
alone and composed with anything, under each neighbouring relation.
"""

import math
from collections.abc import Sequence

import dp_accounting

from dpjax.accounting.events import Event, Parts

_NOISE, _RATE = 0.01, 0.02
"""How far apart, relatively, what is taken together may be."""


def is_sampled_gaussian(event: Event) -> bool:
    """Tell whether `event` is a Poisson-sampled Gaussian release, and no more."""
    return isinstance(event, dp_accounting.PoissonSampledDpEvent) and isinstance(
        event.event, dp_accounting.GaussianDpEvent
    )


def covers(cover: Event, event: Event) -> bool:
    """Tell whether `cover` surely costs at least what `event` does."""
    if not (is_sampled_gaussian(cover) and is_sampled_gaussian(event)):
        return bool(cover == event)
    return bool(
        cover.event.noise_multiplier <= event.event.noise_multiplier
        and cover.sampling_probability >= event.sampling_probability
    )


def around(events: Sequence[Event]) -> Event | None:
    """Return a release that covers all `events`, and others near them.

    It has a little less noise and a little more sampling than the worst of them, so
    that a schedule that moves slowly stays covered; None where there is no such one.
    """
    if not events or not all(is_sampled_gaussian(event) for event in events):
        return None
    noise, rate = _worst(events)
    return _release(noise * (1 - _NOISE), min(1.0, rate * (1 + _RATE)))


def gathered(parts: Parts) -> Parts:
    """Return fewer parts that cost at least what `parts` do, and hardly more.

    Sampled releases whose noise agrees within 1 %, and whose sampling within 2 %,
    become as many of the worst of them.
    """
    groups: dict[tuple[int, int], Parts] = {}
    others = []
    for event, count in parts:
        if not is_sampled_gaussian(event) or not _is_regular(event):
            others.append((event, count))
            continue
        place = (
            math.floor(math.log(event.event.noise_multiplier) / _NOISE),
            math.floor(math.log(event.sampling_probability) / _RATE),
        )
        groups.setdefault(place, []).append((event, count))
    for group in groups.values():
        worst = _release(*_worst([event for event, _ in group]))
        others.append((worst, sum(count for _, count in group)))
    return others


def _is_regular(event: Event) -> bool:
    return 0 < event.event.noise_multiplier < math.inf and (
        0 < event.sampling_probability <= 1
    )


def _worst(events: Sequence[Event]) -> tuple[float, float]:
    return (
        min(event.event.noise_multiplier for event in events),
        max(event.sampling_probability for event in events),
    )


def _release(noise: float, rate: float) -> Event:
    inner = dp_accounting.GaussianDpEvent(noise)
    return dp_accounting.PoissonSampledDpEvent(rate, inner)
