"""What a ledger's releases cost together, at the price of the newest one.

Renyi divergences add up. So the sum of those of all releases, at a few fixed orders,
bounds the epsilon of any number of different releases, and each new one costs its own
divergences alone. The exact accountant is asked where that bound is not enough.
"""

import contextlib

import dp_accounting
import numpy as np

from dpjax.accounting import accountants, events, rdp
from dpjax.accounting.epsilon import AccountingError
from dpjax.accounting.events import Event, Parts, Relation
from dpjax.accounting.ledgers import cover
from dpjax.accounting.ledgers.budget import Budget
from dpjax.accounting.renyi import of_events

_ORDERS = 1 + np.geomspace(1e-2, 1e5, 85)
"""Twelve to a decade of a - 1: the best of them is nearly the best of all."""

_ULP = 2.0**-52

_FEWER = 0.5
"""Share of the releases that may be left for gathering them to be worth it."""


class RunningCost:
    """What was spent, and what it would be with more.

    Args:
      budget: what the cost is compared with.
      relation: which data sets are neighbours.
    """

    def __init__(self, budget: Budget, relation: Relation) -> None:
        self._budget, self._relation = budget, relation
        self._spent: Parts = []
        self._divergences = np.zeros(_ORDERS.size)
        self._known: dict[str, np.ndarray] = {}
        self._additions = 0

    def add(self, event: Event, count: int) -> None:
        """Spend `event`, `count` times."""
        if self._spent and self._spent[-1][0] is event:
            self._spent[-1] = (event, self._spent[-1][1] + count)
        else:
            self._spent.append((event, count))
        self._divergences = self._divergences + count * self._single(event)
        self._additions += 1

    def cost(self, more: Parts) -> float:
        """Return a bound on epsilon with `more`, and the exact one if it matters.

        Args:
          more: events, each with a count of at least 1.

        Returns:
          Epsilon at the budget's delta: the Renyi bound where that is within the
          budget, and else the exact accountant's.

        Raises:
          AccountingError: there is no sound account of the events.
        """
        bound = self._bound(more)
        if bound <= self._budget.epsilon:
            return bound
        parts = [*self._spent, *more]
        gathered = cover.gathered(parts)
        if len(gathered) < _FEWER * len(parts):
            bound = self._exact(gathered)
            if bound <= self._budget.epsilon:
                return bound
        return self._exact(parts)

    def _bound(self, more: Parts) -> float:
        total = self._divergences
        for event, count in more:
            total = total + count * self._single(event)
        rounding = 1 + _ULP * (self._additions + len(more) + 2)
        return rdp.best_bound(_ORDERS, total * rounding, self._budget.delta)

    def _exact(self, parts: Parts) -> float:
        composed = [
            dp_accounting.SelfComposedDpEvent(event, count) for event, count in parts
        ]
        event = dp_accounting.ComposedDpEvent(composed)
        delta = self._budget.delta
        return accountants.event_epsilon(event, delta, relation=self._relation)

    def _single(self, event: Event) -> np.ndarray:
        """Return the divergences of `event`, computed once; infinite without any."""
        text = repr(event)
        if text not in self._known:
            self._known[text] = _divergences(event, self._relation)
        return self._known[text]


def _divergences(event: Event, relation: Relation) -> np.ndarray:
    parts = events.take_apart(event)
    if events.NON_PRIVATE not in [part for part, _ in parts]:
        with contextlib.suppress(AccountingError):
            return of_events.divergences(parts, _ORDERS, relation)
    return np.full(_ORDERS.size, np.inf)
