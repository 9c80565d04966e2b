"""What ledgers, filters and odometers share: entries that a file keeps."""

import abc
import os
import pathlib
from typing import Any, Self

from dpjax import _check, _files
from dpjax.accounting.events import Event
from dpjax.accounting.ledgers import chain, ledger_entry
from dpjax.accounting.ledgers.budget import Budget
from dpjax.accounting.ledgers.chain import LedgerError, Terms
from dpjax.accounting.ledgers.ledger_entry import Entry


class Record(abc.ABC):
    """Releases under some terms, in the order in which they were spent."""

    _entries: list[Entry]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries in the order of spending."""
        return tuple(self._entries)

    @property
    def digest(self) -> str:
        """SHA-256 of all of it; kept elsewhere, it proves a file to be the newest."""
        return self.digests[-1]

    @property
    def digests(self) -> tuple[str, ...]:
        """What `digest` was before the first entry and after each: (entries + 1,)."""
        return tuple(chain.digests(self._terms(), self._entries))

    @abc.abstractmethod
    def spend(self, event: Event, label: str) -> None:
        """Record a release that is about to be made."""

    def to_json(self) -> str:
        """Return all of it as a JSON document with a version and its hashes."""
        return chain.encode(self._terms(), self._entries)

    @classmethod
    @abc.abstractmethod
    def from_json(cls, text: str | bytes, *, digest: str | None = None) -> Self:
        """Return what `to_json` wrote."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file of the owner's, whole or, with an OSError, not at all."""
        _files.replace(pathlib.Path(path), self.to_json().encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, digest: str | None = None) -> Self:
        """Return what `save` wrote, checked as in `from_json`."""
        return cls.from_json(pathlib.Path(path).read_bytes(), digest=digest)

    @abc.abstractmethod
    def _terms(self) -> Terms:
        """Return what tells it from others: budget, relation, and the rule."""


class SavedEntries(Record):
    """Releases whose costs add up, gone on with in another program.

    A file holds the rule, the budget, the neighbouring relation and the entries. What
    they add up to is never read from it: it is added up anew, in the same order.
    """

    @classmethod
    def from_json(cls, text: str | bytes, *, digest: str | None = None) -> Self:
        """Return what `to_json` wrote.

        Args:
          text: the document.
          digest: what `.digest` was, where it was kept.

        Raises:
          LedgerError: the document is damaged, of another version or kind, or was
            changed; the first entry that differs is named.
        """
        terms, entries = chain.decode(text, chain.ADAPTIVE)
        rule = dict(terms.rule or {})
        kind = rule.pop("kind", None)
        if kind != cls.__name__:
            _check.fail(f"a {cls.__name__}", "kind", kind, LedgerError)
        try:
            found = cls._of_terms(terms.budget, relation=terms.relation, **rule)
            for entry in entries:
                found._record(entry)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise LedgerError(f"Expected a {kind} as it was kept, got: {error}") from (
                error
            )
        if found._terms() != terms:
            _check.fail(f"{found._terms()}", "terms", terms, LedgerError)
        if digest not in (None, found.digest):
            _check.fail(f"the {kind} of {digest=}", "digest", found.digest, LedgerError)
        return found

    def snapshot(self) -> Self:
        """Return a copy; what is spent on it is not spent here."""
        return self.from_json(self.to_json())

    @classmethod
    @abc.abstractmethod
    def _of_terms(cls, budget: Budget | None, **rule: Any) -> Self:
        """Return an empty one of a budget, a relation, and what `_terms` says else."""

    @abc.abstractmethod
    def _add(self, event: Event) -> None:
        """Add up what `event` costs."""

    def _record(self, entry: Entry) -> None:
        """Add up an entry, and keep it, whether it fits or not."""
        self._add(ledger_entry.composed([entry]))
        self._entries.append(entry)
