"""Filters and odometers come back from their files, and what was done to one shows."""

import json
import os
import re
import stat

import dp_accounting
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpjax.accounting import AccountingError, Budget, BudgetExceeded, LedgerError
from dpjax.accounting.events import Relation
from dpjax.accounting.ledgers import chain
from dpjax.accounting.ledgers.filters import ConcentratedFilter, GaussianFilter
from dpjax.accounting.ledgers.ledger import PrivacyLedger
from dpjax.accounting.ledgers.ledger_entry import Entry
from dpjax.accounting.ledgers.odometer import PrivacyOdometer
from dpjax.accounting.ledgers.renyi_filter import RenyiFilter

GAUSSIAN = dp_accounting.GaussianDpEvent
BUDGET = Budget(epsilon=3.0, delta=1e-5)
FILTERS = [RenyiFilter, ConcentratedFilter, GaussianFilter]


def steps(noise, count, rate=1.0):
    one = GAUSSIAN(noise)
    one = dp_accounting.PoissonSampledDpEvent(rate, one) if rate < 1 else one
    return dp_accounting.SelfComposedDpEvent(one, count)


def spent(make=RenyiFilter):
    found = make(BUDGET)
    found.spend(steps(30.0, 5), "a first look")
    found.spend(GAUSSIAN(7.1), "statistics ε")
    found.spend(dp_accounting.NoOpDpEvent(), "public")
    return found


# What comes back.

releases = st.lists(
    st.tuples(st.floats(3.0, 90.0), st.integers(1, 40), st.text(min_size=1)), max_size=8
)


@pytest.mark.parametrize("make", FILTERS)
@given(releases, st.sampled_from(list(Relation)), st.floats(3.0, 90.0))
def test_a_filter_comes_back_with_all_that_was_spent(make, chosen, relation, next_one):
    before = make(Budget(0.1 + 2.9, 1e-5), relation=relation)
    for noise, count, label in chosen:
        if label.strip() and before.admits(steps(noise, count)):
            before.spend(steps(noise, count), label)
    after = make.from_json(before.to_json())
    assert type(after) is make
    assert (after.budget, after.relation) == (before.budget, relation)
    assert after.entries == before.entries
    assert after.used == before.used  # to the last bit
    assert after.to_json() == before.to_json()
    assert after.admits(GAUSSIAN(next_one)) == before.admits(GAUSSIAN(next_one))


@given(st.lists(st.floats(1.2, 50.0), min_size=1, max_size=6))
def test_orders_come_back_and_are_not_chosen_anew(orders):
    try:
        before = RenyiFilter(BUDGET, orders=orders)
    except ValueError:
        return  # an order that leaves nothing of the budget
    if before.admits(steps(2.0, 100, rate=0.01)):
        before.spend(steps(2.0, 100, rate=0.01), "steps")
    after = RenyiFilter.from_json(before.to_json())
    assert after.orders == before.orders == tuple(sorted(set(orders)))
    assert after.used == before.used


@given(
    st.lists(st.floats(2.0, 50.0), max_size=5),
    st.lists(st.floats(1.1, 90.0), min_size=1, max_size=4),
    st.sampled_from(list(Relation)),
)
def test_an_odometer_comes_back_with_its_reading(noises, orders, relation):
    before = PrivacyOdometer(1e-5, orders=orders, relation=relation)
    for noise in noises:
        before.spend(GAUSSIAN(noise), "step")
    after = PrivacyOdometer.from_json(before.to_json())
    assert after.entries == before.entries
    assert (after.delta, after.relation) == (before.delta, relation)
    assert after.epsilon() == before.epsilon()
    assert after.to_json() == before.to_json()


def test_any_event_that_was_admitted_is_admitted_again_when_it_is_read():
    before = RenyiFilter(BUDGET)
    inner = dp_accounting.ComposedDpEvent([GAUSSIAN(30.0), steps(9.0, 3, rate=0.1)])
    before.spend(dp_accounting.SelfComposedDpEvent(steps(30.0, 2), 3), "nested")
    before.spend(dp_accounting.SelfComposedDpEvent(inner, 2), "composed")
    before.spend(GAUSSIAN(np.float32(20.1)), "float32")
    before.spend(dp_accounting.ZCDpEvent(0.01), "zCDP")
    assert before.entries[0] == Entry(GAUSSIAN(30.0), 6, "nested")
    assert RenyiFilter.from_json(before.to_json()).used == before.used


@pytest.mark.parametrize("make", FILTERS)
def test_a_file_is_its_owners_alone_and_written_whole(make, tmp_path):
    path, found = tmp_path / "filter.json", spent(make)
    umask = os.umask(0)
    try:
        found.save(path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["filter.json"]
    assert make.load(path).entries == found.entries
    assert make.load(path, digest=found.digest).digest == found.digest


def test_a_copy_spends_for_itself():
    found = spent()
    copy = found.snapshot()
    copy.spend(GAUSSIAN(9.0), "more")
    assert len(copy.entries) == len(found.entries) + 1
    assert copy.used > found.used


@pytest.mark.parametrize("make", FILTERS)
def test_how_full_a_filter_is_goes_from_nothing_to_its_epsilon(make):
    found = make(BUDGET)
    assert found.used == 0
    before = 0.0
    while found.admits(GAUSSIAN(9.0)):
        found.spend(GAUSSIAN(9.0), "step")
        assert before < found.used <= BUDGET.epsilon
        before = found.used
    assert before > 0.9 * BUDGET.epsilon


# What is refused.

TEXT = spent().to_json()


@pytest.mark.parametrize("make", FILTERS)
def test_every_truncation_of_a_file_is_refused(make):
    text = spent(make).to_json().encode()
    for size in range(len(text) - 1):  # the last byte is a newline
        with pytest.raises(LedgerError, match="Expected a whole filter or odometer"):
            make.from_json(text[:size])
    assert make.from_json(text[:-1]).entries == make.from_json(text).entries


def edited(edit, text=TEXT):
    document = json.loads(text)
    edit(document)
    return json.dumps(document)


def edit_noise(document):
    document["entries"][0]["event"]["noise_multiplier"] = 30.000000000000004


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (edit_noise, "entry 1 ('a first look')"),
        (lambda d: d["entries"][0].update(times=4), "entry 1 ('a first look')"),
        (lambda d: d["entries"][1].update(label="other"), "entry 2 ('other')"),
        (lambda d: d["entries"].pop(0), "entry 1 ('statistics ε')"),
        (lambda d: d["entries"].pop(), "entry 2 ('statistics ε')"),
        (lambda d: d["entries"].clear(), "nothing to be the last"),
        (lambda d: d["entries"].reverse(), "entry 1 ('public')"),
        (lambda d: d["entries"].append(d["entries"][1]), "entry 4 ('statistics ε')"),
        (lambda d: d["budget"].update(epsilon=4.0), "entry 1"),
        (lambda d: d.update(relation="REPLACE_ONE"), "entry 1"),
        (lambda d: d["rule"].update(orders=[8.0]), "entry 1"),
        (lambda d: d["rule"].update(kind="ConcentratedFilter"), "entry 1"),
        (lambda d: d.update(rule=None), "a filter or odometer with"),
        (lambda d: d.pop("rule"), "a filter or odometer with"),
        (lambda d: d.update(version=2), "a filter or odometer of version 1"),
        (lambda d: d.update(total=[0.0]), "a filter or odometer with"),
    ],
)
def test_what_was_edited_is_named(edit, named):
    with pytest.raises(LedgerError, match=re.escape(named)):
        RenyiFilter.from_json(edited(edit))


def rehashed(budget=BUDGET, entries=(), rule=None):
    """Return what someone would write who hashes a whole file anew."""
    plain = {"kind": "RenyiFilter", "orders": [8.0]}
    terms = chain.Terms(budget, Relation.ADD_OR_REMOVE_ONE, rule or plain)
    return chain.encode(terms, entries)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (PrivacyLedger(BUDGET).to_json(), "of the format 'dpjax adaptive accounting'"),
        (spent(GaussianFilter).to_json(), "a RenyiFilter, got kind='GaussianFilter'"),
        (PrivacyOdometer(1e-5).to_json(), "a RenyiFilter, got kind='PrivacyOdometer'"),
        (rehashed(rule={"orders": [8.0]}), "a RenyiFilter, got kind=None"),
        (rehashed(budget=None), "a budget"),
        (rehashed(rule={"kind": "RenyiFilter", "orders": [0.5]}), "orders above 1"),
        (rehashed(rule={"kind": "RenyiFilter", "orders": "8"}), "orders"),
        (rehashed(rule={"kind": "RenyiFilter", "orders": None}), "terms"),
        (rehashed(rule={"kind": "RenyiFilter"}), "terms"),
        (rehashed(rule={"kind": "RenyiFilter", "order": [8.0]}), "order"),
        (rehashed(entries=[Entry(GAUSSIAN(-1.0), 1, "x")]), "noise_multiplier"),
        (rehashed(entries=[Entry(GAUSSIAN(10**400), 1, "x")]), "floats hold"),
        (
            rehashed(entries=[Entry(dp_accounting.LaplaceDpEvent(0.0), 1, "x")]),
            "LaplaceDpEvent",
        ),
        ("", "a whole filter or odometer in JSON"),
        (b"\x80\x04}.", "a whole filter or odometer in JSON"),  # a pickle
        ("[]", "of the format"),
    ],
)
def test_what_is_no_such_filter_is_refused(text, named):
    with pytest.raises(LedgerError, match=re.escape(named)):
        RenyiFilter.from_json(text)


def test_an_odometer_has_no_budget_and_a_ledger_is_no_filter():
    rule = {"kind": "PrivacyOdometer", "delta": 1e-5, "orders": [8.0]}
    with pytest.raises(LedgerError, match="no budget"):
        PrivacyOdometer.from_json(rehashed(rule=rule))
    with pytest.raises(LedgerError, match="of the format 'dpjax privacy ledger'"):
        PrivacyLedger.from_json(TEXT)


def test_a_plain_filter_is_refused_for_events_that_it_has_no_cost_of():
    entries = [Entry(steps(1.0, 1, rate=0.1), 1, "x")]
    text = rehashed(entries=entries, rule={"kind": "GaussianFilter"})
    with pytest.raises(LedgerError, match="plain Gaussian") as caught:
        GaussianFilter.from_json(text)
    assert isinstance(caught.value.__cause__, AccountingError)


def test_an_older_file_is_found_out_by_a_digest_that_was_kept():
    found = spent()
    older, digest = found.to_json(), found.digest
    assert RenyiFilter.from_json(older, digest=digest).digest == digest
    found.spend(GAUSSIAN(20.0), "more")
    with pytest.raises(LedgerError, match="digest"):
        RenyiFilter.from_json(older, digest=found.digest)


def test_entries_that_come_to_more_than_the_budget_leave_nothing():
    entries = [Entry(GAUSSIAN(1.0), 5, "dearer than the budget")]
    found = RenyiFilter.from_json(rehashed(entries=entries))
    assert found.used > BUDGET.epsilon
    for event in (GAUSSIAN(1e6), dp_accounting.NoOpDpEvent()):
        assert not found.admits(event)
        with pytest.raises(BudgetExceeded):
            found.spend(event, "more")
