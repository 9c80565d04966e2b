"""The Renyi accountant: an upper bound for every event, quick and a little loose.

The Renyi divergence of order a adds up under composition, and its total R(a) gives

    epsilon = min over a of R(a) + log(1 - 1/a) - log(a delta) / (a - 1)

Every order gives a bound, so the search for the best one needs no proof: a few orders
from 1.001 to 1e6, and Brent's method around the best of them. Gaussian releases have
the divergences of `renyi`; those of other events are dp_accounting's.
"""

import functools
import math
from collections.abc import Callable, Sequence

import dp_accounting
import numpy as np
from dp_accounting import rdp
from scipy import optimize

from dpjax import _check
from dpjax._events import RandomAllocationDpEvent
from dpjax.accounting import batches, events
from dpjax.accounting.epsilon import AccountingError, Delta, Epsilon
from dpjax.accounting.events import Event, Parts, Relation
from dpjax.accounting.laws.privacy_loss import SampledGaussian
from dpjax.accounting.laws.revealed import RevealedMixture
from dpjax.accounting.renyi import repeated, revealed, sampled_gaussian

ORDERS = 1 + np.geomspace(1e-3, 1e6, 37)
"""Where the search for an order begins: four to a decade of a - 1."""

_CURVE_ORDERS = 4096
"""Orders that serve all points of a curve, for all parts together."""

_LIBRARY_EVENTS = (
    dp_accounting.LaplaceDpEvent,
    dp_accounting.ZCDpEvent,
)
"""Events beside the Gaussian ones whose count dp_accounting takes into account."""

_MIXTURE = dp_accounting.dp_event.MixtureOfGaussiansDpEvent
_SELECTION = dp_accounting.dp_event.RepeatAndSelectDpEvent

_LIBRARY_ROUNDING = 8e-15
"""Error of a divergence of dp_accounting, times (order - 1), in nats."""

_ROUNDING = 2.0**-50
"""Relative error of the sums in the conversion."""


def epsilon(parts: Parts, delta: float, relation: Relation) -> Epsilon:
    """Return an upper bound on the epsilon of `parts` at `delta`.

    Args:
      parts: what was released, from `events.take_apart`.
      delta: in (0, 1).
      relation: which data sets are neighbours.

    Raises:
      AccountingError: there is no sound Renyi account of a part under `relation`.

    References:
      Mironov (2017), Renyi differential privacy; Canonne, Kamath and Steinke (2020),
      The discrete Gaussian for differential privacy, proposition 12.
    """
    value, _ = _search(_bound_at(parts, delta, relation))
    return Epsilon(value, method="rdp")


def best_order(parts: Parts, delta: float, relation: Relation) -> float:
    """Return the order between 1.001 and 1e6 whose bound on epsilon is least.

    The arguments are those of `epsilon`.
    """
    return _search(_bound_at(parts, delta, relation))[1]


def delta(parts: Parts, epsilon: float, relation: Relation) -> Delta:
    """Return an upper bound on the delta of `parts` at `epsilon`.

    Args:
      parts: what was released, from `events.take_apart`.
      epsilon: at least 0.
      relation: which data sets are neighbours.

    Raises:
      AccountingError: there is no sound Renyi account of a part under `relation`.
    """

    def log_delta(orders: np.ndarray) -> np.ndarray:
        totals = divergences(parts, orders, relation)
        rounding = _ROUNDING * (totals + epsilon + 1)
        excess = totals - epsilon + np.log1p(-1 / orders) + rounding
        return (orders - 1) * excess - np.log(orders)

    value, _ = _search(log_delta)
    distance = -math.expm1(-divergences(parts, ORDERS, relation)[0])
    return Delta(min(0.0, value, 0.5 * math.log(distance)), method="rdp")


def _search(bound: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
    """Return the least bound that some order gives, and the order."""
    bounds = bound(ORDERS)
    best = int(np.argmin(bounds))
    value, order = float(bounds[best]), float(ORDERS[best])
    ends = np.log(ORDERS[[max(0, best - 1), min(best + 1, ORDERS.size - 1)]] - 1)
    found = optimize.minimize_scalar(
        lambda power: float(bound(np.array([1 + math.exp(power)]))[0]),
        bounds=tuple(ends),
        method="bounded",
        options={"xatol": 1e-5},
    )
    if found.fun < value:
        value, order = float(found.fun), 1 + math.exp(found.x)
    return value, order


def _bound_at(
    parts: Parts, delta: float, relation: Relation
) -> Callable[[np.ndarray], np.ndarray]:
    def bound(orders: np.ndarray) -> np.ndarray:
        totals = divergences(parts, orders, relation)
        return _bounds(totals, _offsets(orders, delta), delta)

    return bound


def curve(
    parts: Parts, delta: float, relation: Relation, steps: Sequence[int]
) -> np.ndarray:
    """Return epsilon after each number of `steps`, one step releasing `parts`.

    The more steps, the lower is the best order: those of the fewest and of the most
    steps have all others between them, and a fine grid there serves the whole curve.
    """
    numbers = np.array(steps, dtype=float)
    taken = numbers[numbers > 0]
    result = np.zeros(numbers.size)
    if not taken.size:
        return result
    ends = [
        best_order([(part, int(n) * count) for part, count in parts], delta, relation)
        for n in (taken.max(), taken.min())
    ]
    low, high = min(ends) - 1, max(ends) - 1
    size = max(64, _CURVE_ORDERS // len(parts)) if high > low else 1
    orders = 1 + np.geomspace(low, high, size)
    step, offsets = divergences(parts, orders, relation), _offsets(orders, delta)
    result[numbers > 0] = [_bounds(n * step, offsets, delta).min() for n in taken]
    return result


def divergences(parts: Parts, orders: np.ndarray, relation: Relation) -> np.ndarray:
    """Return the Renyi divergences of all `parts` together: (orders,).

    Under "replace one", the sum of the data moves by twice the clip norm; dp_accounting
    leaves that factor out, and has no sound account of anything but Gaussians there.

    Args:
      parts: what was released, from `events.take_apart`.
      orders: (orders,) real numbers above 1.
      relation: which data sets are neighbours.

    Raises:
      AccountingError: there is no sound Renyi account of a part under `relation`.
    """
    total = np.zeros(orders.size)
    pairs, counts = [], []
    for part, count in parts:
        pair = gaussian_pair(part, relation)
        if pair is None:
            total += count * _other_divergences(part, orders, relation)
        else:
            pairs.append(pair)
            counts.append(float(count))
    if not pairs:
        return total
    if orders is ORDERS:
        return total + counts @ np.stack([_first_divergences(pair) for pair in pairs])
    return total + counts @ sampled_gaussian.divergences(pairs, orders)


def best_bound(orders: np.ndarray, totals: np.ndarray, delta: float) -> float:
    """Return the least bound on epsilon that divergences at some orders give.

    Args:
      orders: (orders,) real numbers above 1.
      totals: (orders,) in nats; infinite where there are none.
      delta: in (0, 1).
    """
    return float(_bounds(totals, _offsets(orders, delta), delta).min())


@functools.lru_cache(maxsize=4096)
def _first_divergences(pair: SampledGaussian) -> np.ndarray:
    return sampled_gaussian.divergences([pair], ORDERS)[0]


def _bounds(totals: np.ndarray, offsets: np.ndarray, delta: float) -> np.ndarray:
    """Return the bound on epsilon of each order, given `_offsets`: (orders,)."""
    # The total variation distance is at most (1 - e^-R)^(1/2), of any order.
    if delta**2 + math.expm1(-totals.min()) > 0:
        return np.zeros(totals.size)
    return np.maximum(totals * (1 + _ROUNDING) + offsets, 0.0)


def _offsets(orders: np.ndarray, delta: float) -> np.ndarray:
    """Return epsilon less the divergence, rounded up: (orders,)."""
    slack = (np.log(orders) + math.log(delta)) / (orders - 1)
    return np.log1p(-1 / orders) - slack + _ROUNDING * (abs(slack) + 1)


def gaussian_pair(part: Event, relation: Relation) -> SampledGaussian | None:
    """Return the output laws of a Gaussian release, plain or sampled, or None.

    One in a random step of many counts as plain.
    """
    replace_one = relation == Relation.REPLACE_ONE
    if isinstance(part, dp_accounting.GaussianDpEvent):
        return SampledGaussian(part.noise_multiplier, 1.0, replace_one)
    if isinstance(part, dp_accounting.PoissonSampledDpEvent) and isinstance(
        part.event, dp_accounting.GaussianDpEvent
    ):
        noise = part.event.noise_multiplier
        return SampledGaussian(noise, part.sampling_probability, replace_one)
    if isinstance(part, RandomAllocationDpEvent) and part.num_participations == 1:
        # Nothing is amplified here: the step might as well be known.
        return SampledGaussian(part.event.noise_multiplier, 1.0, replace_one)
    return None


def _other_divergences(
    part: Event, orders: np.ndarray, relation: Relation
) -> np.ndarray:
    if isinstance(part, _SELECTION):
        return _selection_divergences(part, orders, relation)
    laws = batches.laws(part, relation)
    if isinstance(part, _MIXTURE) and relation != Relation.REPLACE_ONE:
        laws = batches.mixture_laws(part)
    if isinstance(laws, RevealedMixture):
        return revealed.divergences(laws, orders)
    if _is_sampled_laplace(part) and relation != Relation.REPLACE_ONE:
        return _pure_divergences(part, orders)
    if relation == Relation.REPLACE_ONE or not isinstance(part, _LIBRARY_EVENTS):
        what = f"an event that the RDP accountant can account for under {relation.name}"
        _check.fail(what, "event", part, AccountingError)
    accountant = rdp.RdpAccountant(list(orders), relation)
    try:
        found = accountant.compose(part).rdp
    except dp_accounting.UnsupportedEventError as error:
        raise AccountingError(
            f"Expected an event that the RDP accountant supports, got event={part!r}: "
            f"{error}"
        ) from error
    return np.maximum(found, 0.0) + _LIBRARY_ROUNDING / (orders - 1)


def _selection_divergences(
    part: dp_accounting.dp_event.RepeatAndSelectDpEvent,
    orders: np.ndarray,
    relation: Relation,
) -> np.ndarray:
    one_run = batches.rewritten(events.take_apart(part.event), relation)

    def curve(orders: np.ndarray) -> np.ndarray:
        return divergences(one_run, orders, relation)

    return repeated.divergences(curve, orders, mean=part.mean, shape=part.shape)


def _is_sampled_laplace(part: Event) -> bool:
    return isinstance(part, dp_accounting.PoissonSampledDpEvent) and isinstance(
        part.event, dp_accounting.LaplaceDpEvent
    )


def _pure_divergences(
    part: dp_accounting.PoissonSampledDpEvent, orders: np.ndarray
) -> np.ndarray:
    """Return bounds that hold for any release of the same largest loss.

    Sampling at rate q makes of a largest loss e the one of log(1 + q (exp(e) - 1)), and
    a divergence of order a is at most e and at most a e^2 / 2 (Bun and Steinke 2016,
    Concentrated differential privacy, proposition 3.3).
    """
    loss = 1 / part.event.noise_multiplier
    log_excess = loss + math.log(-math.expm1(-loss))
    sampled = np.logaddexp(0.0, math.log(part.sampling_probability) + log_excess)
    return np.minimum(sampled, orders * sampled**2 / 2) * (1 + _ROUNDING)
