"""Where the budget went: a ledger's epsilon, label by label."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from dpjax.accounting import accountants, figures, relations
from dpjax.accounting.epsilon import Epsilon
from dpjax.accounting.events import Relation
from dpjax.accounting.ledgers import ledger_entry
from dpjax.accounting.ledgers.chain import Terms
from dpjax.accounting.ledgers.ledger_entry import Entry


class Spending(NamedTuple):
    """What one label cost.

    Attributes:
      label: the label.
      releases: how many, under it.
      alone: epsilon of these alone, in nats.
      share: `alone` as a part of the sum over labels; NaN where that is 0 or infinite.
      total: epsilon of this label and all that came up before it.
    """

    label: str
    releases: int
    alone: Epsilon
    share: float
    total: Epsilon


def spending(
    entries: Sequence[Entry], delta: float, *, accountant: str, relation: Relation
) -> list[Spending]:
    """Return what each label cost, in the order in which labels came up.

    The epsilons of labels alone add up to more than the whole, since losses that are
    independent seldom are large together: `total` is what counts.

    Args:
      entries: of the ledger.
      delta: in [0, 1).
      accountant: as in `event_epsilon`.
      relation: which data sets are neighbours.
    """

    def epsilon(chosen: Sequence[Entry]) -> Epsilon:
        event = ledger_entry.composed(chosen)
        return accountants.event_epsilon(
            event, delta, accountant=accountant, relation=relation
        )

    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.label, []).append(entry)
    alone = {label: epsilon(group) for label, group in groups.items()}
    whole = math.fsum(alone.values())
    rows, so_far = [], []
    for label, group in groups.items():
        so_far += group
        share = alone[label] / whole if 0 < whole < math.inf else math.nan
        releases = sum(entry.times for entry in group)
        rows.append(Spending(label, releases, alone[label], share, epsilon(so_far)))
    return rows


def text(rows: Sequence[Spending], delta: float, terms: Terms) -> str:
    """Return the rows as a table; epsilons are rounded up, never down."""
    head = ["label", "releases", "epsilon alone", "share", "epsilon so far"]
    body = [
        [
            row.label,
            f"{row.releases:,}",
            figures.number_up(row.alone),
            "-" if math.isnan(row.share) else f"{row.share:.0%}",
            figures.number_up(row.total),
        ]
        for row in rows
    ]
    total = rows[-1].total if rows else Epsilon(0.0, error=0.0)
    method = f", by the accountant {total.method!r}" if total.method else ""
    closing = (
        f"epsilon {figures.number_up(total)} at delta {delta:g}{method}; neighbours: "
        f"{relations.WORDS[terms.relation]}"
    )
    lines = [*_aligned([head, *body]), closing]
    if terms.budget is not None:
        limit = terms.budget
        lines.append(f"budget: epsilon {limit.epsilon:g} at delta {limit.delta:g}")
    return "\n".join(lines)


def listing(entries: Sequence[Entry]) -> str:
    """Return the entries as a table, without any accounting."""
    body = [[entry.label, f"{entry.times:,}", repr(entry.event)] for entry in entries]
    return "\n".join(_aligned([["label", "releases", "event"], *body]))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with columns of equal width: the first to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *rest = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1])]
        cells += [cell.rjust(width) for cell, width in rest]
        lines.append("  ".join(cells).rstrip())
    return lines
