"""What a ledger holds, as JSON, with a running hash that tells when it was changed.

Each entry's SHA-256 is that of the digest before it and of the entry's own text; the
first covers the budget, the neighbouring relation and, of a filter or an odometer, by
which rule it adds up. So a changed, dropped, added or moved entry shows. A hash has no
secret: who rewrites a whole file can hash it anew, and is only found out by comparing
the last digest with one that was kept elsewhere.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import dp_accounting

from dpjax import _check
from dpjax.accounting.events import Relation
from dpjax.accounting.ledgers import budget as budgets
from dpjax.accounting.ledgers import event_json
from dpjax.accounting.ledgers.budget import Budget
from dpjax.accounting.ledgers.ledger_entry import Entry

LEDGER = "dpjax privacy ledger"
ADAPTIVE = "dpjax adaptive accounting"
"""The formats: of a ledger, and of filters and odometers, which have a rule."""

_WORDS = {LEDGER: "ledger", ADAPTIVE: "filter or odometer"}
_VERSION = 1


class LedgerError(ValueError):
    """The text of a ledger or filter is damaged, of another kind, or was changed."""


class Terms(NamedTuple):
    """What holds for a whole ledger.

    Attributes:
      budget: the most that may be spent, or None.
      relation: which data sets are neighbours.
      rule: of a filter or an odometer, a JSON object: its kind and its settings.
    """

    budget: Budget | None
    relation: Relation
    rule: Mapping[str, Any] | None = None


def checked_terms(budget: Any, relation: Any) -> Terms:
    """Return the terms, with the budget from a pair of numbers in range."""
    if not isinstance(relation, dp_accounting.NeighboringRelation):
        what = "a dp_accounting.NeighboringRelation"
        _check.fail(what, "relation", relation, TypeError)
    return Terms(budgets.checked(budget), relation)


def digests(terms: Terms, entries: Sequence[Entry]) -> list[str]:
    """Return the running hash before the first entry and after each: (entries + 1,)."""
    found = [_hash("", _terms_object(terms))]
    for entry in entries:
        found.append(_hash(found[-1], _entry_object(entry)))
    return found


def encode(terms: Terms, entries: Sequence[Entry]) -> str:
    """Return a ledger as one JSON document."""
    marks = digests(terms, entries)
    lines = [
        _entry_object(entry) | {"sha256": mark}
        for entry, mark in zip(entries, marks[1:], strict=True)
    ]
    document = _terms_object(terms) | {"entries": lines, "sha256": marks[-1]}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def decode(text: str | bytes, form: str = LEDGER) -> tuple[Terms, list[Entry]]:
    """Return what `encode` wrote, if it is what `encode` wrote.

    Args:
      text: the document.
      form: `LEDGER`, or `ADAPTIVE` for terms with a rule.

    Raises:
      LedgerError: the text is no JSON, cut off, of another version, or not what its
        hashes say; the first entry that differs is named.
    """
    document = _parse(text, form)
    terms = _terms(document)
    entries: list[Entry] = []
    mark = _hash("", _terms_object(terms))
    for number, value in enumerate(document["entries"], start=1):
        entry = _entry(number, value)
        mark = _hash(mark, _entry_object(entry))
        if value["sha256"] != mark:
            _fail(
                f"entry {number} ({entry.label!r}) as it was recorded (it was changed, "
                "moved or added, or one before it dropped)",
                "sha256",
                value["sha256"],
            )
        entries.append(entry)
    if document["sha256"] != mark:
        last = f"entry {len(entries)} ({entries[-1].label!r})" if entries else "nothing"
        what = f"{last} to be the last that was recorded (one was dropped or added)"
        _fail(what, "sha256", document["sha256"])
    return terms, entries


def _hash(before: str, value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()


def _terms_object(terms: Terms) -> dict[str, Any]:
    plain = {
        "format": LEDGER if terms.rule is None else ADAPTIVE,
        "version": _VERSION,
        "relation": terms.relation.name,
        "budget": terms.budget and terms.budget._asdict(),
    }
    return plain if terms.rule is None else plain | {"rule": dict(terms.rule)}


def _entry_object(entry: Entry) -> dict[str, Any]:
    return entry._asdict() | {"event": event_json.to_json(entry.event)}


def _parse(text: str | bytes, form: str) -> dict[str, Any]:
    word = _WORDS[form]
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"Expected a whole {word} in JSON, got: {error}.") from error
    if not isinstance(document, dict) or document.get("format") != form:
        _fail(f"a JSON document of the format {form!r}", "text", document)
    if document.get("version") != _VERSION:
        _fail(f"a {word} of version {_VERSION}", "version", document.get("version"))
    wanted = {"format", "version", "relation", "budget", "entries", "sha256"}
    wanted |= {"rule"} if form == ADAPTIVE else set()
    whole = document.keys() == wanted and isinstance(document["entries"], list)
    if not whole or not isinstance(document.get("rule", {}), dict):
        _fail(f"a {word} with {', '.join(sorted(wanted))}", "keys", sorted(document))
    return document


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _terms(document: dict[str, Any]) -> Terms:
    relations = {relation.name: relation for relation in list(Relation)}
    budget = document["budget"]
    try:
        name = _check.choice("relation", document["relation"], tuple(relations))
        if budget is not None:
            budget = budgets.checked((budget.pop("epsilon"), budget.pop("delta")))
            if document["budget"]:
                _check.fail("epsilon and delta alone", "budget", document["budget"])
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise LedgerError(f"Expected the terms of a ledger, got: {error}") from error
    return Terms(budget, relations[name], document.get("rule"))


def _entry(number: int, value: Any) -> Entry:
    wanted = {"event", "times", "label", "sha256"}
    if not isinstance(value, dict) or value.keys() != wanted:
        _fail(f"{', '.join(sorted(wanted))} in entry {number}", "entry", value)
    try:
        event = event_json.from_json(value["event"])
        times = _check.integer("times", value["times"], minimum=1)
    except (TypeError, ValueError, RecursionError) as error:
        raise LedgerError(f"Expected entry {number} whole, got: {error}") from error
    if not isinstance(value["label"], str):
        _fail(f"a text in entry {number}", "label", value["label"])
    return Entry(event, times, value["label"])


def _fail(expected: str, name: str, value: Any) -> NoReturn:
    text = repr(value)
    short = text if len(text) <= 80 else text[:77] + "..."
    raise LedgerError(f"Expected {expected}, got {name}={short}.")
