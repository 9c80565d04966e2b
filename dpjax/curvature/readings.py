"""What is read off examples without noise: a value, and what reading it costs."""

import dataclasses
import functools
from collections.abc import Iterable

import dp_accounting
import jax


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["event"]
)
@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """An exact value, and the event that a ledger composes for having looked at it.

    Attributes:
      value: an array.
      event: `NoOpDpEvent` (public data), `NonPrivateDpEvent` (private data, no noise),
        or None: unknown, which a ledger refuses.
    """

    value: jax.Array
    event: dp_accounting.DpEvent | None


def joint_event(
    events: Iterable[dp_accounting.DpEvent | None],
) -> dp_accounting.DpEvent | None:
    """Return what looking at several sources costs together.

    Unknown when one of them is; nothing when all are public; otherwise the composition
    of those that cost something, where equal non-private ones count once.

    >>> import dp_accounting
    >>> public, private = dp_accounting.NoOpDpEvent(), dp_accounting.NonPrivateDpEvent()
    >>> joint_event([public, private, private])
    NonPrivateDpEvent()
    """
    known = []
    non_private = dp_accounting.NonPrivateDpEvent()
    for event in events:
        if event is None:
            return None
        if event == non_private and non_private in known:
            continue
        if event != dp_accounting.NoOpDpEvent():
            known.append(event)
    if len(known) > 1:
        return dp_accounting.ComposedDpEvent(known)
    return known[0] if known else dp_accounting.NoOpDpEvent()
