"""The odometer: what was spent so far, however the releases were chosen."""

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from dpjax import _check
from dpjax.accounting.epsilon import Epsilon
from dpjax.accounting.events import Event, Relation
from dpjax.accounting.ledgers import chain, ledger_entry
from dpjax.accounting.ledgers.budget import Budget
from dpjax.accounting.ledgers.chain import Terms
from dpjax.accounting.ledgers.ledger_entry import Entry
from dpjax.accounting.ledgers.renyi_filter import event_divergences
from dpjax.accounting.ledgers.saved import SavedEntries

_DEFAULT_ORDERS = tuple(1 + 2.0**power for power in range(-1, 9))


class PrivacyOdometer(SavedEntries):
    """A running epsilon that is right at all times, for releases chosen on the way.

    No budget is fixed: events are spent as they are chosen, by looking at what was
    released, and one may stop, or go on, by looking at the reading.

    Guarantee: for each pair of neighbours and data of the one, with probability 1 -
    delta over what is released, the privacy loss of all that was released so far is at
    most the reading, at all times at once. So whatever rule one stops by, what was
    released is as good as (reading, delta)-private; to promise an epsilon beforehand, a
    filter is cheaper.

    Why: with R_t(a) the divergence of release t, given those before, exp((a - 1) (loss
    so far - sum of R_t(a))) has, under the data that are there, a mean of at most what
    it was before each release, and starts at 1. The probability that it ever exceeds
    k / delta is therefore at most delta / k (Ville 1939), for each of k orders; and all
    hold at once with 1 - delta. The reading is the least of the bounds

        sum of R_t(a) + log(k / delta) / (a - 1).

    Args:
      delta: in (0, 1).
      orders: real numbers above 1, fixed beforehand; each further one costs, since k
        grows. None takes 1.5, 2, 3, 5, ..., 257.
      relation: which data sets are neighbours.

    Raises:
      ValueError: a number out of range.

    References:
      Rogers, Roth, Ullman and Vadhan (2016), Privacy odometers and filters,
      arXiv 1605.08294; Lecuyer (2021), Practical privacy filters and odometers with
      Renyi differential privacy, arXiv 2103.01379 (by doubling budgets); Whitehouse,
      Ramdas, Rogers and Wu (2023), Fully adaptive composition in differential privacy,
      arXiv 2203.05481 (by martingales, as here).

    Example:
      >>> import dp_accounting
      >>> odometer = PrivacyOdometer(delta=1e-5)
      >>> for noise in (8.0, 4.0, 16.0):
      ...     odometer.spend(dp_accounting.GaussianDpEvent(noise), "training")
      >>> round(odometer.epsilon(), 2)
      1.56
    """

    def __init__(
        self,
        delta: float,
        *,
        orders: Sequence[float] | None = None,
        relation: Relation = Relation.ADD_OR_REMOVE_ONE,
    ) -> None:
        self._delta = _check.open_unit("delta", delta)
        self._relation = chain.checked_terms(None, relation).relation
        if orders is None:
            orders = _DEFAULT_ORDERS
        chosen = {_check.real("orders", a) for a in orders}
        if not chosen:
            _check.fail("at least one order", "orders", orders)
        if min(chosen) <= 1:
            _check.fail("orders above 1", "orders", min(chosen))
        self._orders = np.array(sorted(chosen))
        self._total = np.zeros(self._orders.size)
        self._entries: list[Entry] = []

    @property
    def delta(self) -> float:
        """The probability with which a reading may be passed at any time."""
        return self._delta

    @property
    def relation(self) -> Relation:
        """The data sets that are neighbours."""
        return self._relation

    def spend(self, event: Event, label: str) -> None:
        """Record a release that is about to be made.

        Args:
          event: a `dp_accounting.DpEvent`, which may have been chosen by looking at
            everything that was released before.
          label: what it is for; not empty.

        Raises:
          TypeError: `event` is None or no event, or `label` no text.
          ValueError: a setting of the event is out of range, or `label` is empty.
          AccountingError: the event has no Renyi account.
        """
        ledger_entry.checked_label(label)
        self._record(Entry(*ledger_entry.canonical(event), label))

    def epsilon(self) -> Epsilon:
        """Return the reading, in nats; it never falls."""
        if not self._total.any():
            return Epsilon(0.0, error=0.0, method="odometer")
        slack = 1 + 2.0**-52 * (len(self._entries) + 2)
        share = math.log(self._orders.size) - math.log(self._delta)
        bounds = (self._total + share / (self._orders - 1)) * slack
        return Epsilon(float(bounds.min()), method="odometer")

    @classmethod
    def _of_terms(cls, budget: Budget | None, **rule: Any) -> Self:
        if budget is not None:
            _check.fail("no budget", "budget", budget, TypeError)
        return cls(**rule)

    def _terms(self) -> Terms:
        rule = {"kind": type(self).__name__, "delta": self._delta}
        orders = {"orders": self._orders.tolist()}
        return Terms(None, self._relation, rule | orders)

    def _add(self, event: Event) -> None:
        cost = event_divergences(event, self._orders, self._relation)
        self._total = self._total + cost
