"""The filter by Renyi divergences: for every event that has some."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dpjax import _check
from dpjax.accounting import batches, events, rdp
from dpjax.accounting.events import Event, Relation
from dpjax.accounting.ledgers.budget import Budget
from dpjax.accounting.ledgers.filters import budget_rho
from dpjax.accounting.ledgers.privacy_filter import PrivacyFilter
from dpjax.accounting.renyi import of_events

_SPREAD = (0.25, 0.5, 1.0, 2.0)
"""Default orders, less 1, over the one that is best for Gaussian releases."""


class RenyiFilter(PrivacyFilter):
    """A filter for every event that has Renyi divergences, sampled steps included.

    Of one order a, releases are admitted while the sum of their divergences keeps to
    the total R(a) that converts to the budget. Of k orders, each has a share delta / k,
    and releases are admitted while one of the sums keeps to its own total. Orders are
    fixed beforehand: to take the best one afterwards, at the full delta, is not proven.

    Guarantee: as `PrivacyFilter`. For one order, this is the filter of Feldman and
    Zrnic. For several: sort outcomes by the first order whose sum keeps to its total to
    the end. On outcomes of order a, the process is the same as one that is stopped by
    the filter of order a, which is (epsilon, delta / k)-private. So an event E has
    P(E) = sum over a of P(E of order a), at most sum of e^epsilon Q(E of order a) +
    delta / k = e^epsilon Q(E) + delta.

    Not all samplers have Renyi divergences that are near the truth: such runs are
    admitted later than they could be, or not at all.

    | sampler                             | is charged as                              |
    | ----------------------------------- | ------------------------------------------ |
    | `Poisson`, truncated, cyclic        | sampled steps                              |
    | `FixedSize`                         | sampled steps                              |
    | `FixedSizeWithReplacement`          | far more: 40 steps of 100 in 4,000 at      |
    |                                     | noise 4 need epsilon 1.7e5, and have 0.55  |
    | `BallsInBins`, `RandomAllocation`   | steps that are not sampled: not amplified  |

    Args:
      budget: `Budget(epsilon, delta)`.
      orders: real numbers above 1, chosen without a look at the data; one or a few.
        None takes four around the order that is best for Gaussian releases.
      relation: which data sets are neighbours.

    Raises:
      ValueError: a number out of range, or an order that leaves nothing of the budget.

    References:
      Rogers, Roth, Ullman and Vadhan (2016), Privacy odometers and filters,
      arXiv 1605.08294; Feldman and Zrnic (2021), Individual privacy accounting via a
      Renyi filter, arXiv 2008.11193.

    Example:
      >>> import dp_accounting
      >>> renyi = RenyiFilter(Budget(epsilon=3.0, delta=1e-5))
      >>> noise, steps = 8.0, 0
      >>> while renyi.admits(dp_accounting.GaussianDpEvent(noise)):
      ...     renyi.spend(dp_accounting.GaussianDpEvent(noise), "training")
      ...     noise, steps = max(noise * 0.9, 4.0), steps + 1  # by looking at results
      >>> steps
      9
    """

    def __init__(
        self,
        budget: Budget | tuple[float, float],
        *,
        orders: Sequence[float] | None = None,
        relation: Relation = Relation.ADD_OR_REMOVE_ONE,
    ) -> None:
        super().__init__(budget, relation=relation)
        if orders is None:
            orders = default_orders(self.budget)
        self._orders = np.array(sorted({_order(a) for a in orders}))
        if not self._orders.size:
            _check.fail("at least one order", "orders", orders)
        for order in self.orders:
            if not _leaves_room(order, self.budget, self._orders.size):
                what = f"orders that leave a part of epsilon {self.budget.epsilon}"
                _check.fail(what, "orders", order)
        self._total = np.zeros(self._orders.size)

    @property
    def orders(self) -> tuple[float, ...]:
        """The orders at which divergences are added up."""
        return tuple(self._orders.tolist())

    def _settings(self) -> dict[str, Any]:
        return {"orders": list(self.orders)}

    def _fits(self, event: Event, slack: float) -> bool:
        total = (self._total + self._cost(event)) * slack
        return self._epsilon(total) <= self.budget.epsilon

    def _epsilon_with(self, event: Event) -> float:
        return self._epsilon(self._total + self._cost(event))

    def _add(self, event: Event) -> None:
        self._total = self._total + self._cost(event)

    def _epsilon(self, total: np.ndarray) -> float:
        finite = np.isfinite(total)
        if not finite.any():
            return math.inf
        share = self.budget.delta / self._orders.size
        return rdp.best_bound(self._orders[finite], total[finite], share)

    def _cost(self, event: Event) -> np.ndarray:
        return event_divergences(event, self._orders, self.relation)


def event_divergences(
    event: Event, orders: np.ndarray, relation: Relation
) -> np.ndarray:
    """Return the Renyi divergences of an event, infinite without noise: (orders,)."""
    parts = batches.rewritten(events.take_apart(event), relation)
    if any(part == events.NON_PRIVATE for part, _ in parts):
        return np.full(orders.size, np.inf)
    return of_events.divergences(parts, orders, relation)


def default_orders(budget: Budget) -> list[float]:
    """Return a few orders that suit a budget: functions of it, and of nothing else.

    rho-zCDP has its least bound near the order 1 + sqrt(log(1 / delta) / rho). Steps
    that are sampled have theirs lower, where the budget is large.
    """
    middle = math.sqrt(-math.log(budget.delta) / budget_rho(budget))
    orders = [1 + middle * factor for factor in _SPREAD]
    return [order for order in orders if _leaves_room(order, budget, len(orders))]


def _leaves_room(order: float, budget: Budget, count: int) -> bool:
    """Tell whether an order, one of `count`, can pay for any divergence to speak of.

    (Below delta^2, a divergence is paid for by delta alone.)
    """
    share = budget.delta / count
    least = np.array([2 * share**2 + math.ulp(0.0)])
    return rdp.best_bound(np.array([order]), least, share) < budget.epsilon


def _order(value: float) -> float:
    order = _check.real("orders", value)
    if order <= 1:
        _check.fail("orders above 1", "orders", value)
    return order
