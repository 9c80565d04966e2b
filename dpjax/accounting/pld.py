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
from dpjax.accounting import batches, events, of_parts, rdp
from dpjax.accounting.epsilon import AccountingError, Delta, Epsilon
from dpjax.accounting.events import Parts, Relation
from dpjax.accounting.grids.grid import Grid
from dpjax.accounting.inversion import invert

_LEAST_DELTA, _MOST_DELTA = 1e-250, 0.999
"""Between these, deltas are looked for on a grid."""

_ROUNDS = 8
"""A grid for a bound tells delta well enough to choose a better one: two will do."""

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
    if not of_parts.has_laws(parts, relation):
        return _library_epsilon(parts, delta, relation)
    if of_parts.is_gaussian(parts) and not of_parts.is_sampled(parts):
        return _plain_epsilon(parts, delta, relation)
    if not of_parts.fits_a_grid(parts):
        return _rough_epsilon(parts, delta, relation)
    pairs = [of_parts.laws_of(part, relation) for part, _ in parts]
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
    plain = of_parts.is_gaussian(parts) and not of_parts.is_sampled(parts)
    if of_parts.has_laws(parts, relation) and not plain and of_parts.fits_a_grid(most):
        pairs = [of_parts.laws_of(part, relation) for part, _ in parts]
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
    plain = of_parts.is_gaussian(parts) and not of_parts.is_sampled(parts)
    if plain or not (
        of_parts.has_laws(parts, relation) and of_parts.fits_a_grid(parts)
    ):
        return invert(epsilon, parts, epsilon_wanted, relation)
    pairs = [of_parts.laws_of(part, relation) for part, _ in parts]
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
    distance = sum(
        count * of_parts.laws_of(part, relation).distance for part, count in parts
    )
    least = math.log(min(distance, _MOST_DELTA))
    try:
        return min(least, rdp.delta(parts, epsilon_wanted, relation).log)
    except AccountingError:
        return least


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
    distance = sum(
        count * of_parts.laws_of(part, relation).distance for part, count in parts
    )
    if distance <= delta:
        return Epsilon(0.0, error=0.0, method="pld")
    cut = any(batches.laws(part, relation) for part, _ in parts)
    if cut or (of_parts.is_gaussian(parts) and relation != Relation.REPLACE_ONE):
        return rdp.epsilon(parts, delta, relation)
    plain = [(of_parts.without_sampling(part), n) for part, n in parts]
    return Epsilon(_plain_epsilon(plain, delta, relation), method="pld")


def _library_epsilon(parts: Parts, delta: float, relation: Relation) -> Epsilon:
    """Return the epsilon of events whose losses only dp_accounting knows."""
    if delta <= _LIBRARY_LEAST_DELTA:
        what = f"a delta > {_LIBRARY_LEAST_DELTA} for such events, or accountant='rdp'"
        _check.fail(what, "delta", delta, AccountingError)
    accountant = pld.PLDAccountant(relation, _LIBRARY_INTERVAL)
    for part, count in parts:
        if not (of_parts.is_gaussian([(part, 1)]) or isinstance(part, _LIBRARY_EVENTS)):
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
