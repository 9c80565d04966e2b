"""The Renyi accountant: an upper bound for every event, quick and a little loose.

The Renyi divergence of order a adds up under composition, and its total R(a) gives

    epsilon = min over a of R(a) + log(1 - 1/a) - log(a delta) / (a - 1)

Every order gives a bound, so the search for the best one needs no proof: a few orders
from 1.001 to 1e6, and Brent's method around the best of them. Gaussian releases have
the divergences of `renyi`; those of other events are dp_accounting's.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize

from dpjax.accounting.epsilon import Delta, Epsilon
from dpjax.accounting.events import Parts, Relation
from dpjax.accounting.renyi import of_events

_CURVE_ORDERS = 4096
"""Orders that serve all points of a curve, for all parts together."""

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
        totals = of_events.divergences(parts, orders, relation)
        rounding = _ROUNDING * (totals + epsilon + 1)
        excess = totals - epsilon + np.log1p(-1 / orders) + rounding
        return (orders - 1) * excess - np.log(orders)

    value, _ = _search(log_delta)
    distance = -math.expm1(-of_events.divergences(parts, of_events.ORDERS, relation)[0])
    return Delta(min(0.0, value, 0.5 * math.log(distance)), method="rdp")


def _search(bound: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
    """Return the least bound that some order gives, and the order."""
    bounds = bound(of_events.ORDERS)
    best = int(np.argmin(bounds))
    value, order = float(bounds[best]), float(of_events.ORDERS[best])
    ends = np.log(
        of_events.ORDERS[[max(0, best - 1), min(best + 1, of_events.ORDERS.size - 1)]]
        - 1
    )
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
        totals = of_events.divergences(parts, orders, relation)
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
    step, offsets = (
        of_events.divergences(parts, orders, relation),
        _offsets(orders, delta),
    )
    result[numbers > 0] = [_bounds(n * step, offsets, delta).min() for n in taken]
    return result


def best_bound(orders: np.ndarray, totals: np.ndarray, delta: float) -> float:
    """Return the least bound on epsilon that divergences at some orders give.

    Args:
      orders: (orders,) real numbers above 1.
      totals: (orders,) in nats; infinite where there are none.
      delta: in (0, 1).
    """
    return float(_bounds(totals, _offsets(orders, delta), delta).min())


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
