"""A ledger as JSON comes back whole, and what was done to it is found out."""

import json
import re

import dp_accounting
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpjax.accounting.events import Relation
from dpjax.accounting.ledgers import chain
from dpjax.accounting.ledgers.budget import Budget
from dpjax.accounting.ledgers.chain import LedgerError, Terms
from dpjax.accounting.ledgers.ledger_entry import Entry

STEP = dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(1.0))
TERMS = Terms(Budget(3.0, 1e-5), Relation.ADD_OR_REMOVE_ONE)
ENTRIES = [
    Entry(dp_accounting.NoOpDpEvent(), 100, "pre-training"),
    Entry(STEP, 1000, "tuning"),
    Entry(dp_accounting.LaplaceDpEvent(10.0), 1, "statistics ε"),
    Entry(STEP, 10, "tuning"),
]
TEXT = chain.encode(TERMS, ENTRIES)

events = st.one_of(
    st.builds(dp_accounting.GaussianDpEvent, st.floats(0.01, 100)),
    st.builds(dp_accounting.LaplaceDpEvent, st.floats(0.01, 100)),
    st.just(dp_accounting.NoOpDpEvent()),
)
entries = st.lists(st.builds(Entry, events, st.integers(1, 10**9), st.text()))


@given(entries, st.sampled_from(list(Relation)), st.booleans())
def test_what_is_written_comes_back_the_same(lines, relation, limited):
    terms = Terms(Budget(0.1 + 0.2, 1e-300) if limited else None, relation)
    text = chain.encode(terms, lines)
    assert chain.decode(text) == (terms, lines)
    assert chain.decode(text.encode()) == (terms, lines)


def test_each_digest_covers_the_one_before():
    marks = chain.digests(TERMS, ENTRIES)
    changed = [ENTRIES[0]._replace(times=99), *ENTRIES[1:]]
    others = chain.digests(TERMS, changed)
    assert len(marks) == len(ENTRIES) + 1
    assert [a == b for a, b in zip(marks, others, strict=True)] == [True] + 4 * [False]
    assert not set(marks) & set(chain.digests(TERMS._replace(budget=None), []))


def edited(edit):
    document = json.loads(TEXT)
    edit(document)
    return json.dumps(document)


def edit_event(document):
    document["entries"][1]["event"]["event"]["noise_multiplier"] = 1.0000000000000002


def edit_times(document):
    document["entries"][1]["times"] = 999


def edit_label(document):
    document["entries"][2]["label"] = "statistics"


def edit_hash(document):
    document["entries"][1]["sha256"] = "0" * 64


def drop_first(document):
    del document["entries"][0]


def drop_middle(document):
    del document["entries"][1]


def drop_last(document):
    del document["entries"][-1]


def drop_all(document):
    document["entries"].clear()


def swap(document):
    lines = document["entries"]
    lines[1], lines[2] = lines[2], lines[1]


def repeat(document):
    document["entries"].insert(2, document["entries"][1])


def add(document):
    line = chain._entry_object(ENTRIES[2])
    document["entries"].append(line | {"sha256": document["sha256"]})


def add_with_its_hash(document):
    lines = json.loads(chain.encode(TERMS, [*ENTRIES, ENTRIES[2]]))["entries"]
    document["entries"].append(lines[-1])


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (edit_event, "entry 2 ('tuning')"),
        (edit_times, "entry 2 ('tuning')"),
        (edit_label, "entry 3 ('statistics')"),
        (edit_hash, "entry 2 ('tuning')"),
        (drop_first, "entry 1 ('tuning')"),
        (drop_middle, "entry 2 ('statistics ε')"),
        (drop_last, "entry 3 ('statistics ε')"),
        (drop_all, "nothing to be the last"),
        (swap, "entry 2 ('statistics ε')"),
        (repeat, "entry 3 ('tuning')"),
        (add, "entry 5 ('statistics ε')"),
        (add_with_its_hash, "entry 5 ('statistics ε')"),
    ],
)
def test_an_entry_changed_dropped_moved_or_added_is_named(edit, named):
    with pytest.raises(LedgerError, match=re.escape(named)):
        chain.decode(edited(edit))


@pytest.mark.parametrize(
    "edit",
    [
        lambda document: document.update(budget={"epsilon": 4.0, "delta": 1e-5}),
        lambda document: document.update(budget=None),
        lambda document: document.update(relation="REPLACE_ONE"),
    ],
)
def test_changed_terms_break_the_first_entry(edit):
    with pytest.raises(LedgerError, match="entry 1"):
        chain.decode(edited(edit))


@pytest.mark.parametrize("cut", [0, 1, 30, 300, len(TEXT) // 2, len(TEXT) - 3])
def test_a_truncated_text_is_refused(cut):
    with pytest.raises(LedgerError, match="Expected a whole ledger in JSON"):
        chain.decode(TEXT[:cut])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("epsilon = 3", "whole ledger in JSON"),
        (b"\xff\xfe\x00", "whole ledger in JSON"),
        ("[" * 100_000, "whole ledger in JSON"),
        ('{"format": NaN}', "NaN is not JSON"),
        ("[]", "format"),
        ("null", "format"),
        ('{"epsilon": 3}', "format"),
    ],
    ids=range(7),
)
def test_what_is_no_ledger_is_refused(text, complaint):
    with pytest.raises(LedgerError, match=complaint):
        chain.decode(text)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused(version):
    text = edited(lambda document: document.update(version=version))
    with pytest.raises(LedgerError, match=r"version 1, got version="):
        chain.decode(text)


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.pop("sha256"),
        lambda d: d.update(more=1),
        lambda d: d.update(entries={}),
        lambda d: d.update(relation="SAME"),
        lambda d: d.update(relation=None),
        lambda d: d.update(budget=3.0),
        lambda d: d.update(budget={"epsilon": 3.0}),
        lambda d: d["budget"].update(more=1),
        lambda d: d["budget"].update(epsilon=-1.0),
        lambda d: d["entries"].append(None),
        lambda d: d["entries"][0].pop("label"),
        lambda d: d["entries"][0].update(more=1),
        lambda d: d["entries"][0].update(label=3),
        lambda d: d["entries"][0].update(times=0),
        lambda d: d["entries"][0].update(times=1.5),
        lambda d: d["entries"][0].update(times=True),
        lambda d: d["entries"][0].update(event={"type": "Nothing"}),
    ],
)
def test_a_field_out_of_place_is_refused(edit):
    with pytest.raises(LedgerError, match="Expected"):
        chain.decode(edited(edit))


def test_the_relation_and_the_budget_are_checked():
    for relation in (None, "ADD_OR_REMOVE_ONE", 1):
        with pytest.raises(TypeError, match="NeighboringRelation"):
            chain.checked_terms(None, relation)
    with pytest.raises(ValueError, match=r"budget\.delta"):
        chain.checked_terms((1.0, 2.0), Relation.REPLACE_ONE)
