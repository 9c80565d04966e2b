"""The entries of a ledger: which event, how often, for what."""

from collections.abc import Sequence
from typing import NamedTuple

import dp_accounting

from dpjax import _check
from dpjax.accounting import events
from dpjax.accounting.events import Event
from dpjax.accounting.ledgers import event_json


class Entry(NamedTuple):
    """One line of a ledger: the same event, `times` times in a row.

    Attributes:
      event: what was released each time.
      times: how often, at least once.
      label: what it was for.
    """

    event: Event
    times: int
    label: str


def composed(entries: Sequence[Entry]) -> Event:
    """Return the event of all `entries`."""
    parts = [
        dp_accounting.SelfComposedDpEvent(entry.event, entry.times) for entry in entries
    ]
    return dp_accounting.ComposedDpEvent(parts)


def checked_label(label: str) -> str:
    """Return `label` if it is a text with something in it."""
    if not isinstance(label, str):
        _check.fail("a text", "label", label, TypeError)
    if not label.strip():
        _check.fail("a text that says what the release is for", "label", label)
    return label


def same(event: Event, other: Event) -> bool:
    """Tell whether two events are equal; where in doubt, they are not."""
    try:
        return bool(event == other)
    except ValueError:  # an array in a field
        return False


def canonical(event: Event) -> tuple[Event, int]:
    """Return a checked copy of `event`, and how often it is composed with itself."""
    if event is None:
        what = "an event (what is known of it has no account of its own)"
        _check.fail(what, "event", event, TypeError)
    events.take_apart(event)
    count = 1
    while isinstance(event, dp_accounting.SelfComposedDpEvent) and event.count > 0:
        event, count = event.event, count * event.count
    # The copy is ours: lists in the event may change later.
    return event_json.from_json(event_json.to_json(event)), count
