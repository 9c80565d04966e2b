"""Where the budget went, label by label."""

import math

import dp_accounting
import pytest

from dpjax.accounting import accountants
from dpjax.accounting.events import Relation
from dpjax.accounting.ledgers import summary
from dpjax.accounting.ledgers.budget import Budget
from dpjax.accounting.ledgers.chain import Terms
from dpjax.accounting.ledgers.ledger_entry import Entry

STEP = dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(1.0))
RELEASE = dp_accounting.GaussianDpEvent(10.0)
ENTRIES = [
    Entry(dp_accounting.NoOpDpEvent(), 50, "pre-training"),
    Entry(STEP, 600, "tuning"),
    Entry(RELEASE, 1, "statistics"),
    Entry(STEP, 400, "tuning"),
]


def table(entries, delta=1e-5, relation=Relation.ADD_OR_REMOVE_ONE):
    return summary.spending(entries, delta, accountant="exact", relation=relation)


def epsilon(*events, relation=Relation.ADD_OR_REMOVE_ONE):
    event = dp_accounting.ComposedDpEvent(list(events))
    return accountants.event_epsilon(event, 1e-5, relation=relation)


def test_each_label_has_its_own_cost_and_the_sum_so_far():
    public, tuning, statistics = table(ENTRIES)
    steps = dp_accounting.SelfComposedDpEvent(STEP, 1000)
    assert public[:2] == ("pre-training", 50)
    assert (public.alone, public.share, public.total) == (0.0, 0.0, 0.0)
    assert tuning[:2] == ("tuning", 1000)
    assert tuning.alone == tuning.total == pytest.approx(epsilon(steps))
    assert statistics.alone == pytest.approx(epsilon(RELEASE))
    assert statistics.total == pytest.approx(epsilon(steps, RELEASE))
    assert sum(row.share for row in table(ENTRIES)) == pytest.approx(1.0)
    assert statistics.total < tuning.alone + statistics.alone


def test_the_relation_is_that_of_the_ledger():
    relation = Relation.REPLACE_ONE
    (row,) = table([Entry(RELEASE, 1, "a")], relation=relation)
    assert row.total == epsilon(RELEASE, relation=relation) > epsilon(RELEASE)


@pytest.mark.parametrize(
    "entries",
    [
        [Entry(dp_accounting.NoOpDpEvent(), 1, "a")],
        [Entry(dp_accounting.NonPrivateDpEvent(), 1, "a"), *ENTRIES],
    ],
)
def test_there_are_no_shares_of_nothing_and_of_everything(entries):
    assert all(math.isnan(row.share) for row in table(entries))


def test_the_text_rounds_up_and_says_what_it_stands_on():
    terms = Terms(Budget(3.0, 1e-5), Relation.ADD_OR_REMOVE_ONE)
    rows = table(ENTRIES)
    lines = summary.text(rows, 1e-5, terms).splitlines()
    assert lines[0].split("  ")[0] == "label"
    assert [line.split()[0] for line in lines[1:4]] == [row.label for row in rows]
    shown = [float(line.split()[-1]) for line in lines[1:4]]
    for number, row in zip(shown, rows, strict=True):
        assert row.total <= number <= row.total + 1e-3
    assert lines[4].startswith(f"epsilon {lines[3].split()[-1]} at delta 1e-05")
    assert lines[4].endswith("neighbours: add or remove one example")
    assert lines[5] == "budget: epsilon 3 at delta 1e-05"


def test_an_empty_ledger_has_a_table_too():
    terms = Terms(None, Relation.REPLACE_ONE)
    assert table([]) == []
    assert summary.text([], 1e-5, terms).splitlines()[-1] == (
        "epsilon 0 at delta 1e-05; neighbours: replace one example"
    )
    assert summary.listing([]) == "label  releases  event"


def test_the_infinite_is_said_in_a_word():
    rows = table([Entry(dp_accounting.NonPrivateDpEvent(), 1, "leak")])
    text = summary.text(rows, 1e-5, Terms(None, Relation.ADD_OR_REMOVE_ONE))
    assert "epsilon infinite at delta 1e-05" in text
