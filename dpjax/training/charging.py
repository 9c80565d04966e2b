"""The charge of a run to a budget that it shares with other runs.

A new run is charged with all its steps after everything that can fail was checked, and
before its folder becomes that of a run: a folder with a config.json was charged for. So
a run that dies in between has lost its charge, and one that is resumed, whose steps
release the same numbers again, is not charged twice.

The label of a charge names the key of the run by 32 bits of a hash, which whoever reads
it could test guesses of an integer seed by, but not find 64 bits from the operating
system: two runs of one budget with the same key would have the same noise. And it says
how many units of privacy there are: a budget is of one unit, and what a run promises an
example and another promises an owner of several does not add up.
"""

import hashlib
import re
from typing import Any

import dp_accounting
import numpy as np

from dpjax import _check
from dpjax.accounting import FilterFile, PrivacyFilter
from dpjax.accounting.events import Event
from dpjax.accounting.ledgers import ledger_entry
from dpjax.accounting.ledgers.ledger_entry import Entry
from dpjax.training import processes
from dpjax.training.folder import ResumeError
from dpjax.training.plan import Plan

_LABEL = re.compile(r"training on (\d+) units, key [0-9a-f]{8}")


def check(plan: Plan) -> None:
    """Refuse, in the first process, what `charge` would; write nothing.

    Raises:
      BudgetExceeded: the run's steps do not fit into what is left.
      ValueError: a run with this key, or on another number of units, was charged.
      LedgerError: the budget cannot be read.
    """
    privacy_filter = _own_filter(plan)
    if privacy_filter is None or plan.request.resume:
        return
    now, entry = privacy_filter.snapshot(), _entry(plan)
    if entry.label in [other.label for other in now.entries]:
        what = "a key that no other run of this budget has (their noise is the same)"
        _check.fail(what, "label", entry.label)
    units = {found[1] for each in now.entries if (found := _LABEL.match(each.label))}
    if not units <= {str(plan.request.mechanism.num_examples)}:
        what = f"as many units as the other runs of this budget ({', '.join(units)})"
        _check.fail(what, "num_examples", plan.request.mechanism.num_examples)
    now.spend(*_charge(entry))


def charge(plan: Plan) -> str | None:
    """Charge a new run, in the first process; see `check`.

    Returns:
      The filter's digest right after the charge, by which a run that is resumed knows
      its own; None without a filter.
    """
    privacy_filter = _own_filter(plan)
    if privacy_filter is None:
        return None
    entry = _entry(plan)
    privacy_filter.spend(*_charge(entry))
    return _charged(privacy_filter, entry)


def check_charged(plan: Plan, digest: Any) -> None:
    """Refuse to go on with a run under a filter that it was not charged to.

    Args:
      plan: the run.
      digest: what `charge` returned when it was begun.

    Raises:
      ResumeError: it was charged elsewhere, or not at all.
    """
    privacy_filter = _own_filter(plan)
    if privacy_filter is None:
        return
    if digest is None or _charged(privacy_filter, _entry(plan)) != digest:
        raise ResumeError(
            "Expected a privacy filter that this run was charged to, got one of "
            f"{len(privacy_filter.entries)} other releases."
        )


def closing_lines(plan: Plan) -> list[str]:
    """Return what is printed of the shared budget at the end of a run."""
    privacy_filter = plan.request.privacy_filter
    if privacy_filter is None:
        return []
    epsilon, delta = privacy_filter.budget
    return [
        "all runs that share the budget, together: epsilon at most "
        f"{epsilon:g} at delta {delta:g}"
    ]


def _own_filter(plan: Plan) -> PrivacyFilter | FilterFile | None:
    return plan.request.privacy_filter if processes.is_first() else None


def _entry(plan: Plan) -> Entry:
    words = np.asarray(plan.key_words, ">u4").tobytes()
    mark = hashlib.sha256(b"dpjax.training.charging" + words).hexdigest()[:8]
    [steps] = plan.ledger.entries
    units = plan.request.mechanism.num_examples
    return steps._replace(label=f"training on {units} units, key {mark}")


def _charge(entry: Entry) -> tuple[Event, str]:
    return dp_accounting.SelfComposedDpEvent(entry.event, entry.times), entry.label


def _charged(privacy_filter: PrivacyFilter | FilterFile, entry: Entry) -> str | None:
    """Return the digest after the entry of a run, None where there is none."""
    now = privacy_filter.snapshot()
    for found, digest in zip(now.entries, now.digests[1:], strict=True):
        if _same(entry, found):
            return digest
    return None


def _same(entry: Entry, other: Entry) -> bool:
    if (entry.label, entry.times) != (other.label, other.times):
        return False
    return ledger_entry.same(entry.event, other.event)
