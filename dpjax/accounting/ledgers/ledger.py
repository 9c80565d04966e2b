"""The ledger: what was released of one data set, what it cost, and what it may cost."""

from typing import Self

from dpjax import _check
from dpjax.accounting import accountants
from dpjax.accounting.epsilon import Epsilon
from dpjax.accounting.events import Event, Relation
from dpjax.accounting.ledgers import chain, ledger_entry, summary
from dpjax.accounting.ledgers.budget import Budget, BudgetExceeded
from dpjax.accounting.ledgers.chain import LedgerError, Terms
from dpjax.accounting.ledgers.headroom import Headroom, most_within
from dpjax.accounting.ledgers.ledger_entry import Entry
from dpjax.accounting.ledgers.running import RunningCost
from dpjax.accounting.ledgers.saved import Record


class PrivacyLedger(Record):
    """A record of all that was released of one data set.

    Every release is spent BEFORE it is made: `spend` raises where it would pass the
    budget, and the ledger is then as it was. Consecutive releases of the same event
    under the same label are one entry with a count, so that a loop can spend every
    step: the accountant is asked a number of times that grows with the logarithm of
    the steps, and the rest is counting.

    Args:
      budget: `Budget(epsilon, delta)`, or None for a record without a limit.
      relation: which data sets are neighbours; one for the whole ledger.

    Guarantee: all that was spent is together (epsilon(delta), delta)-differentially
    private under `relation`, and with a budget, (budget.epsilon, budget.delta)-. A
    release may depend on the results of earlier ones, but which events are spent, and
    how often, must be decided without them: the noise of a step is not to be chosen by
    how the last one went.

    | event                                         | what happens          |
    | --------------------------------------------- | --------------------- |
    | `NoOpDpEvent` (work on public data)           | recorded, costs 0     |
    | `NonPrivateDpEvent`                           | epsilon is infinite   |
    | None (nobody knows what was done to the data) | TypeError             |

    Example:
      >>> import dp_accounting
      >>> step = dp_accounting.PoissonSampledDpEvent(
      ...     0.01, dp_accounting.GaussianDpEvent(1.0)
      ... )
      >>> ledger = PrivacyLedger(Budget(epsilon=2.0, delta=1e-5))
      >>> ledger.spend(dp_accounting.NoOpDpEvent(), "pre-training")
      >>> for _ in range(1000):
      ...     ledger.spend(step, "tuning")
      >>> ledger.spend(dp_accounting.GaussianDpEvent(1.0), "statistics")
      Traceback (most recent call last):
        ...
      dpjax.accounting.ledgers.budget.BudgetExceeded: Expected a release within \
the budget of epsilon 2 at delta 1e-05, got label='statistics', which would make \
it 4.830.
      >>> round(ledger.epsilon(1e-5), 3)
      1.828
    """

    def __init__(
        self,
        budget: Budget | tuple[float, float] | None = None,
        *,
        relation: Relation = Relation.ADD_OR_REMOVE_ONE,
    ) -> None:
        self._limits = chain.checked_terms(budget, relation)
        self._entries: list[Entry] = []
        self._headroom: Headroom | None = None
        self._running: RunningCost | None = None

    @property
    def budget(self) -> Budget | None:
        """The most that may be spent."""
        return self._limits.budget

    @property
    def relation(self) -> Relation:
        """The data sets that are neighbours."""
        return self._limits.relation

    def event(self) -> Event:
        """Return all that was spent as one event."""
        return ledger_entry.composed(self._entries)

    def spend(self, event: Event, label: str) -> None:
        """Record a release that is about to be made.

        Args:
          event: a `dp_accounting.DpEvent`; of a `SelfComposedDpEvent`, each composition
            counts as one release.
          label: what it is for, such as "pre-training"; not empty.

        Raises:
          BudgetExceeded: it would pass the budget. Nothing is recorded.
          TypeError: `event` is None or no event, or `label` no text.
          ValueError: a setting of the event is out of range, or `label` is empty.
          AccountingError: with a budget: there is no sound account of the event.
        """
        ledger_entry.checked_label(label)
        if self._entries and ledger_entry.same(self._entries[-1].event, event):
            released, count = self._entries[-1].event, 1
        else:
            released, count = ledger_entry.canonical(event)
        if self.budget is not None:
            spent = self._room(self.budget).take(released, count)
            if spent is not None:
                raise BudgetExceeded(label, spent, self.budget)
        self._record(Entry(released, count, label))

    def epsilon(self, delta: float, *, accountant: str = "exact") -> Epsilon:
        """Return the epsilon at `delta`, in [0, 1), of all that was spent."""
        return accountants.event_epsilon(
            self.event(), delta, accountant=accountant, relation=self.relation
        )

    def remaining(self, event: Event) -> int:
        """Return how many more of `event` fit into the budget, at most 2^33.

        Raises:
          ValueError: there is no budget.
        """
        if self.budget is None:
            _check.fail("a ledger with a budget", "budget", None)
        released, count = ledger_entry.canonical(event)
        costs = self._costs(self.budget)

        def cost(number: int) -> float:
            return costs.cost([(released, number * count)])

        return most_within(cost, self.budget.epsilon)

    def merge(self, other: "PrivacyLedger") -> "PrivacyLedger":
        """Return a ledger of what both spent on the same data.

        The entries of this one come first, those of `other` after them. Epsilon does
        not depend on the order; the digest does.

        Raises:
          ValueError: the relations differ, or both have a budget and these differ.
          BudgetExceeded: together they pass the budget.
        """
        if not isinstance(other, PrivacyLedger):
            _check.fail("a PrivacyLedger", "other", other, TypeError)
        if other.relation != self.relation:
            _check.fail(f"a ledger under {self.relation}", "relation", other.relation)
        if self.budget and other.budget and self.budget != other.budget:
            _check.fail(f"a ledger of the {self.budget}", "budget", other.budget)
        budget = self.budget or other.budget
        merged = PrivacyLedger(budget, relation=self.relation)
        for entry in (*self._entries, *other._entries):
            merged._record(entry)
        if budget is not None and other._entries:
            spent = merged.epsilon(budget.delta)
            if spent > budget.epsilon:
                raise BudgetExceeded(other._entries[-1].label, spent, budget)
        return merged

    def spending(
        self, delta: float, *, accountant: str = "exact"
    ) -> list[summary.Spending]:
        """Return where epsilon went, label by label; see `summary.spending`."""
        return summary.spending(
            self._entries, delta, accountant=accountant, relation=self.relation
        )

    def table(self, delta: float | None = None, *, accountant: str = "exact") -> str:
        """Return where epsilon went as text; `delta` None is the budget's."""
        if delta is None:
            if self.budget is None:
                _check.fail("a delta, or a ledger with a budget", "delta", None)
            delta = self.budget.delta
        rows = self.spending(delta, accountant=accountant)
        return summary.text(rows, delta, self._limits)

    @classmethod
    def from_json(cls, text: str | bytes, *, digest: str | None = None) -> Self:
        """Return the ledger that `to_json` wrote.

        Args:
          text: the document.
          digest: what `.digest` was, where it was kept.

        Raises:
          LedgerError: the document is damaged, of another version, or was changed; the
            first entry that differs is named.
        """
        terms, entries = chain.decode(text)
        ledger = cls(terms.budget, relation=terms.relation)
        ledger._entries = entries
        if digest is not None and ledger.digest != digest:
            raise LedgerError(
                f"Expected the ledger of digest={digest!r}, got {ledger.digest!r}."
            )
        return ledger

    def __repr__(self) -> str:
        count = sum(entry.times for entry in self._entries)
        return (
            f"PrivacyLedger(budget={self.budget}, relation={self.relation.name}, "
            f"releases={count}, digest={self.digest[:12]})"
        )

    def __str__(self) -> str:
        return summary.listing(self._entries)

    def _terms(self) -> Terms:
        return self._limits

    def _record(self, entry: Entry) -> None:
        last = self._entries[-1] if self._entries else None
        if last is not None and (last.event, last.label) == (entry.event, entry.label):
            self._entries[-1] = last._replace(times=last.times + entry.times)
        else:
            self._entries.append(entry)
        if self._running is not None:
            self._running.add(self._entries[-1].event, entry.times)

    def _costs(self, budget: Budget) -> RunningCost:
        if self._running is None:
            self._running = RunningCost(budget, self.relation)
            for entry in self._entries:
                self._running.add(entry.event, entry.times)
        return self._running

    def _room(self, budget: Budget) -> Headroom:
        if self._headroom is None:
            self._headroom = Headroom(self._costs(budget).cost, budget.epsilon)
        return self._headroom
