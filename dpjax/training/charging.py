"""The charge of a run to a budget that it shares with other runs.

A new run is charged with all its steps after everything that can fail was checked, and
before its folder becomes that of a run: a folder with a config.json was charged for. So
a run that dies in between has lost its charge, and one that is resumed, whose steps
release the same numbers again, is not charged twice.

The label of a charge names the key of the run by 32 bits of a hash, which whoever reads
it could test guesses of an integer seed by, but not find 64 bits from the operating
system: two runs of one budget with the same key would have the same noise.
"""

import hashlib

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


def check(plan: Plan) -> None:
    """Refuse, in the first process, what `charge` would; write nothing.

    Raises:
      BudgetExceeded: the run's steps do not fit into what is left.
      ValueError: a run with this key was charged already.
      ResumeError: a run that is resumed was not charged here.
      LedgerError: the budget cannot be read.
    """
    privacy_filter = _own_filter(plan)
    if privacy_filter is None:
        return
    now, entry = privacy_filter.snapshot(), _entry(plan)
    charged = [_same(entry, other) for other in now.entries]
    if plan.request.resume and not any(charged):
        raise ResumeError(
            "Expected a privacy filter that this run was charged to, got one of "
            f"{len(charged)} other releases."
        )
    if plan.request.resume:
        return
    if entry.label in [other.label for other in now.entries]:
        what = "a key that no other run of this budget has (their noise is the same)"
        _check.fail(what, "label", entry.label)
    now.spend(*_charge(entry))


def charge(plan: Plan) -> None:
    """Charge a new run, in the first process; see `check`."""
    privacy_filter = _own_filter(plan)
    if privacy_filter is not None and not plan.request.resume:
        privacy_filter.spend(*_charge(_entry(plan)))


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
    return steps._replace(label=f"training, key {mark}")


def _charge(entry: Entry) -> tuple[Event, str]:
    return dp_accounting.SelfComposedDpEvent(entry.event, entry.times), entry.label


def _same(entry: Entry, other: Entry) -> bool:
    if (entry.label, entry.times) != (other.label, other.times):
        return False
    return ledger_entry.same(entry.event, other.event)
