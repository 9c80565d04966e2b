"""The accountant of privacy loss distributions: an upper bound close to the truth.

Gaussian releases, plain, Poisson sampled, or mixtures, have a grid that fits them;
plain ones alone have a closed form. The losses of other events are those of
dp_accounting, on its own fixed grid.
"""

import dataclasses
import math
from collections.abc import Sequence

import dp_accounting
import numpy as np
from dp_accounting import pld

from dpjax import _check
from dpjax._events import RandomAllocationDpEvent
from dpjax.accounting import batches, events, rdp
from dpjax.accounting.epsilon import AccountingError, Delta, Epsilon
from dpjax.accounting.events import Event, Parts, Relation
from dpjax.accounting.grids.grid import Grid, Laws
from dpjax.accounting.inversion import invert
from dpjax.accounting.laws import mixture, privacy_loss

_LEAST_NOISE = 1 / 16
"""A sampled release with less noise loses more than 100 nats: a bound will do."""

_MOST_STEPS = 10**10

_LEAST_DELTA, _MOST_DELTA = 1e-250, 0.999
"""Between these, deltas are looked for on a grid."""

_ROUNDS = 8
"""A grid for a bound tells delta well enough to choose a better one: two will do."""

_GAUSSIAN = dp_accounting.GaussianDpEvent

_LIBRARY_INTERVAL = 1e-4
_LIBRARY_LEAST_DELTA = 1e-10

_LIBRARY_EVENTS = (
    dp_accounting.LaplaceDpEvent,
    dp_accounting.PoissonSampledDpEvent,
    dp_accounting.TruncatedSubsampledGaussianDpEvent,
    dp_accounting.dp_event.DiscreteLaplaceDpEvent,
    dp_accounting.dp_event.MixtureOfGaussiansDpEvent,
)
"""Events beside the Gaussian ones whose count dp_accounting takes into account."""


def epsilon(parts: Parts, delta: float, relation: Relation) -> Epsilon:
    """Return an upper bound on the epsilon of `parts` at `delta`.

    | parts                               | how                        | `.error`  |
    | ----------------------------------- | -------------------------- | --------- |
    | plain Gaussian releases             | closed form                | 0         |
    | Gaussian, sampled in any of our     | a grid that fits           | estimated |
    | ways (`batches`), or mixtures       |                            |           |
    | the same, a noise multiplier < 1/16 | Renyi, or without sampling | unknown   |
    | the same, delta below what a grid   | Renyi, or without sampling | unknown   |
    | tells from rounding                 |                            |           |
    | others                              | dp_accounting's grid       | unknown   |

    The estimate is the distance to the number of a grid half as fine. As the excess of
    a grid falls with the square of its interval, the true one is about a third of it.

    Args:
      parts: what was released, from `events.take_apart`.
      delta: in (0, 1); above 1e-10 for events that are not Gaussian, where the rounding
        of dp_accounting is larger than that.
      relation: which data sets are neighbours.

    Raises:
      AccountingError: there is no sound account of a part under `relation`, or no
        sound number: the message names the accountant that has one.

    References:
      Koskela, Jalko and Honkela (2020), Computing tight differential privacy guarantees
      using FFT; Zhu, Dong and Wang (2022), Optimal accounting of differential privacy
      via characteristic function; Balle and Wang (2018), Improving the Gaussian
      mechanism for differential privacy.
    """
    if not _has_laws(parts, relation):
        return _library_epsilon(parts, delta, relation)
    if is_gaussian(parts) and not is_sampled(parts):
        return _plain_epsilon(parts, delta, relation)
    if not fits_a_grid(parts):
        return _rough_epsilon(parts, delta, relation)
    pairs = [_laws(part, relation) for part, _ in parts]
    counts = [count for _, count in parts]
    grid = Grid.choose(pairs, counts, delta)
    coarser = dataclasses.replace(
        grid,
        pairs=tuple(getattr(law, "coarser", law) for law in pairs),
        interval=2 * grid.interval,
    )
    value = grid.epsilon(grid.laws(), counts, delta)
    if not math.isfinite(value):
        return _rough_epsilon(parts, delta, relation)
    coarse_value = coarser.epsilon(coarser.laws(), counts, delta)
    return Epsilon(value, error=abs(coarse_value - value), method="pld")


def curve(
    parts: Parts, delta: float, relation: Relation, steps: Sequence[int]
) -> np.ndarray:
    """Return epsilon after each number of `steps`, one step releasing `parts`.

    The laws of one step are put on the grid once, for the largest number of steps.
    """
    most = [(part, max(steps) * count) for part, count in parts]
    plain = is_gaussian(parts) and not is_sampled(parts)
    if _has_laws(parts, relation) and not plain and fits_a_grid(most):
        pairs = [_laws(part, relation) for part, _ in parts]
        grid = Grid.choose(pairs, [count for _, count in most], delta)
        laws = grid.laws()

        def after(number: int) -> float:
            value = grid.epsilon(laws, [number * count for _, count in parts], delta)
            if math.isfinite(value):
                return value
            scaled = [(part, number * count) for part, count in parts]
            return _rough_epsilon(scaled, delta, relation)
    else:

        def after(number: int) -> float:
            scaled = [(part, number * count) for part, count in parts]
            return epsilon(scaled, delta, relation)

    return np.array([after(number) if number else 0.0 for number in steps], dtype=float)


def delta(parts: Parts, epsilon_wanted: float, relation: Relation) -> Delta:
    """Return an upper bound on the delta of `parts` at an epsilon.

    A grid is chosen for a first bound, and again for the delta that it says, until that
    is what it was chosen for.
    """
    plain = is_gaussian(parts) and not is_sampled(parts)
    if plain or not (_has_laws(parts, relation) and fits_a_grid(parts)):
        return invert(epsilon, parts, epsilon_wanted, relation)
    pairs = [_laws(part, relation) for part, _ in parts]
    counts = [count for _, count in parts]
    least = _first_log_delta(parts, epsilon_wanted, relation)
    for _ in range(_ROUNDS):
        about = math.exp(least)
        if about < _LEAST_DELTA:
            break
        grid = Grid.choose(pairs, counts, about)
        found = grid.log_delta(grid.laws(), counts, epsilon_wanted, about)
        settled = found > least - 1
        least = min(least, found)
        if settled:
            break
    return Delta(least, method="pld")


def _first_log_delta(parts: Parts, epsilon_wanted: float, relation: Relation) -> float:
    """Return a bound on the logarithm of delta."""
    distance = sum(count * _laws(part, relation).distance for part, count in parts)
    least = math.log(min(distance, _MOST_DELTA))
    try:
        return min(least, rdp.delta(parts, epsilon_wanted, relation).log)
    except AccountingError:
        return least


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


def _has_laws(parts: Parts, relation: Relation) -> bool:
    """Tell whether the laws of all `parts` under `relation` are known here."""
    return all(
        _is_gaussian(part)
        or (_is_mixture(part) and relation != Relation.REPLACE_ONE)
        or batches.laws(part, relation) is not None
        for part, _ in parts
    )


def _laws(part: Event, relation: Relation) -> Laws:
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


def _unsampled(part: Event) -> dp_accounting.GaussianDpEvent:
    """Return the plain Gaussian release that costs at least what `part` does."""
    if _is_mixture(part):
        return _GAUSSIAN(1 / mixture.from_event(part).largest_shift)
    return part.event if _is_sampled(part) else part


def _plain_epsilon(parts: Parts, delta: float, relation: Relation) -> Epsilon:
    """Return the epsilon of plain Gaussian releases, by its closed form."""
    precision = sum(count / part.noise_multiplier**2 for part, count in parts)
    sensitivity = 2 if relation == Relation.REPLACE_ONE else 1
    noise = 1 / (sensitivity * math.sqrt(precision))
    with np.errstate(divide="ignore"):
        value = dp_accounting.get_epsilon_gaussian(noise, delta)
    # The root is found to 1e-12; where the root is 0, it is found exactly.
    rounded_up = value * (1 + 1e-12) + 1e-12 if value else 0.0
    return Epsilon(rounded_up, error=0.0, method="pld")


def _rough_epsilon(parts: Parts, delta: float, relation: Relation) -> Epsilon:
    """Return the Renyi bound, or where there is none, that of releases not sampled."""
    distance = sum(count * _laws(part, relation).distance for part, count in parts)
    if distance <= delta:
        return Epsilon(0.0, error=0.0, method="pld")
    cut = any(batches.laws(part, relation) for part, _ in parts)
    if cut or (is_gaussian(parts) and relation != Relation.REPLACE_ONE):
        return rdp.epsilon(parts, delta, relation)
    plain = [(_unsampled(part), n) for part, n in parts]
    return Epsilon(_plain_epsilon(plain, delta, relation), method="pld")


def _library_epsilon(parts: Parts, delta: float, relation: Relation) -> Epsilon:
    """Return the epsilon of events whose losses only dp_accounting knows."""
    if delta <= _LIBRARY_LEAST_DELTA:
        what = f"a delta > {_LIBRARY_LEAST_DELTA} for such events, or accountant='rdp'"
        _check.fail(what, "delta", delta, AccountingError)
    accountant = pld.PLDAccountant(relation, _LIBRARY_INTERVAL)
    for part, count in parts:
        if not (_is_gaussian(part) or isinstance(part, _LIBRARY_EVENTS)):
            what = "an event that the PLD accountant can account for"
            _check.fail(what, "event", part, AccountingError)
        try:
            accountant.compose(part, count)
        except events.REFUSALS as error:
            raise AccountingError(
                f"Expected an event that the PLD accountant supports under "
                f"{relation.name}, got event={part!r}: {error}"
            ) from error
    value = accountant.get_epsilon(delta)
    if math.isnan(value):
        _check.fail("events of numbers in range", "event", parts, AccountingError)
    return Epsilon(value, method="pld")
