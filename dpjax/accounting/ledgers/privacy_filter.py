"""What privacy filters share: costs that add up, a limit, and the record."""

import abc
from typing import Any, Self

import dp_accounting

from dpjax import _check
from dpjax.accounting.events import Event, Relation
from dpjax.accounting.ledgers import chain, ledger_entry
from dpjax.accounting.ledgers.budget import Budget, BudgetExceeded
from dpjax.accounting.ledgers.chain import Terms
from dpjax.accounting.ledgers.ledger_entry import Entry
from dpjax.accounting.ledgers.saved import SavedEntries

_ULP = 2.0**-52
_NOTHING = dp_accounting.NoOpDpEvent()


class PrivacyFilter(SavedEntries):
    """A budget that holds when later releases are chosen by earlier ones.

    A ledger adds up events that are fixed before the data are looked at. Who lowers the
    noise because the last step went badly, or stops when the model is good enough,
    chooses events by what was released, and the epsilon of the events that came about
    is then no bound: it was selected. A filter is told of every release before it is
    made, with the event that was chosen, and refuses what would pass a budget that was
    fixed beforehand. What is promised is the budget, whenever one stops, and not the
    part of it that was used; the odometer promises that.

    Releases of several programs, one after the other, keep to one budget if each takes
    up the filter that the one before has saved; `FilterFile` does that, and for
    programs that run at the same time. Entries that are taken up are added up whatever
    they come to: where a version of dpjax finds that they cost more than the budget,
    nothing else is admitted.

    Guarantee: of kinds of filters, each in its own words: all releases that were
    admitted, together with the choices between them, are (epsilon, delta)-private under
    `relation`, where each choice may use everything released before, and nothing else
    of the data. Each event must hold given what was released before.
    """

    def __init__(
        self,
        budget: Budget | tuple[float, float],
        *,
        relation: Relation = Relation.ADD_OR_REMOVE_ONE,
    ) -> None:
        terms = chain.checked_terms(budget, relation)
        if terms.budget is None:
            _check.fail("a budget (epsilon, delta)", "budget", None, TypeError)
        self._budget, self._relation = terms.budget, terms.relation
        self._entries: list[Entry] = []

    @property
    def budget(self) -> Budget:
        """What is promised of all releases together."""
        return self._budget

    @property
    def relation(self) -> Relation:
        """The data sets that are neighbours."""
        return self._relation

    @property
    def used(self) -> float:
        """The epsilon of the least such budget that admits what was admitted, in nats.

        How full the filter is: no promise, which is the budget (see the odometer).
        """
        return self._epsilon_with(_NOTHING)

    def admits(self, event: Event) -> bool:
        """Tell whether `event` fits into what is left; nothing is spent."""
        return self._fits(event, self._slack())

    def spend(self, event: Event, label: str) -> None:
        """Record a release that is about to be made.

        Args:
          event: a `dp_accounting.DpEvent`, which may have been chosen by looking at
            everything that was released before.
          label: what it is for; not empty.

        Raises:
          BudgetExceeded: it does not fit. Nothing is recorded, and the release must not
            be made; another one that costs less still may be.
          TypeError: `event` is None or no event, or `label` no text.
          ValueError: a setting of the event is out of range, or `label` is empty.
          AccountingError: this filter has no cost of the event that adds up.
        """
        ledger_entry.checked_label(label)
        entry = Entry(*ledger_entry.canonical(event), label)
        whole = ledger_entry.composed([entry])
        if not self._fits(whole, self._slack()):
            raise BudgetExceeded(label, self._epsilon_with(whole), self._budget)
        self._record(entry)

    @classmethod
    def _of_terms(cls, budget: Budget | None, **rule: Any) -> Self:
        if budget is None:
            _check.fail("a budget (epsilon, delta)", "budget", None, TypeError)
        return cls(budget, **rule)

    def _terms(self) -> Terms:
        rule = {"kind": type(self).__name__} | self._settings()
        return Terms(self._budget, self._relation, rule)

    def _settings(self) -> dict[str, Any]:
        """Return the settings beside budget and relation, as JSON."""
        return {}

    def _slack(self) -> float:
        """Return the factor by which sums of costs may have been rounded down."""
        return 1 + _ULP * (len(self._entries) + 2)

    @abc.abstractmethod
    def _fits(self, event: Event, slack: float) -> bool:
        """Tell whether what was spent, and `event`, stay within the budget."""

    @abc.abstractmethod
    def _epsilon_with(self, event: Event) -> float:
        """Return the least epsilon of a budget into which `event` would fit."""
