"""The ledger: it adds up, it stops in time, and it is kept."""

import contextlib
import errno
import math
import os

import dp_accounting
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpjax import _files, accounting
from dpjax.accounting import accountants
from dpjax.accounting.events import Relation
from dpjax.accounting.ledgers.budget import Budget, BudgetExceeded
from dpjax.accounting.ledgers.chain import LedgerError
from dpjax.accounting.ledgers.ledger import PrivacyLedger
from dpjax.accounting.renyi import sampled_gaussian

DELTA = 1e-5
STEP = dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(1.0))
RELEASE = dp_accounting.GaussianDpEvent(10.0)
PUBLIC = dp_accounting.NoOpDpEvent()
LEAK = dp_accounting.NonPrivateDpEvent()


def repeated(event, count):
    return dp_accounting.SelfComposedDpEvent(event, count)


def ledger_of(*spends, budget=None, relation=Relation.ADD_OR_REMOVE_ONE):
    ledger = PrivacyLedger(budget, relation=relation)
    for event, label in spends:
        ledger.spend(event, label)
    return ledger


PHASES = (
    (PUBLIC, "pre-training"),
    (repeated(STEP, 300), "tuning"),
    (RELEASE, "statistics"),
    (repeated(STEP, 700), "tuning"),
)


# What was spent.


def test_an_empty_ledger_has_spent_nothing():
    assert PrivacyLedger().epsilon(DELTA) == 0
    assert PrivacyLedger().entries == ()


def test_phases_cost_what_their_events_cost_together():
    events = [event for event, _ in PHASES]
    expected = accounting.event_epsilon(dp_accounting.ComposedDpEvent(events), DELTA)
    found = ledger_of(*PHASES).epsilon(DELTA)
    assert found == pytest.approx(expected)
    assert found.method == expected.method


@pytest.mark.parametrize("accountant", ["exact", "pld", "rdp"])
def test_every_accountant_can_be_asked(accountant):
    ledger = ledger_of((repeated(STEP, 100), "tuning"))
    expected = accounting.event_epsilon(ledger.event(), DELTA, accountant=accountant)
    assert ledger.epsilon(DELTA, accountant=accountant) == expected


def test_the_relation_is_that_of_the_ledger():
    ledger = ledger_of((RELEASE, "a"), relation=Relation.REPLACE_ONE)
    expected = accounting.event_epsilon(RELEASE, DELTA, relation=Relation.REPLACE_ONE)
    assert ledger.epsilon(DELTA) == expected
    assert ledger.relation == Relation.REPLACE_ONE


def test_a_leak_makes_epsilon_infinite_for_good():
    ledger = ledger_of(*PHASES, (LEAK, "curvature"), (RELEASE, "more"))
    assert ledger.epsilon(DELTA) == math.inf


def test_work_on_public_data_costs_nothing():
    ledger = ledger_of((repeated(PUBLIC, 10**6), "pre-training"), budget=(1e-9, 1e-9))
    assert ledger.epsilon(DELTA) == 0


@pytest.mark.parametrize(
    ("event", "label", "error"),
    [
        (None, "a", TypeError),
        (1.0, "a", TypeError),
        (dp_accounting.GaussianDpEvent(-1.0), "a", ValueError),
        (RELEASE, "", ValueError),
        (RELEASE, None, TypeError),
    ],
)
def test_a_spend_that_makes_no_sense_is_refused_and_changes_nothing(
    event, label, error
):
    ledger = ledger_of(*PHASES)
    before = ledger.digest
    with pytest.raises(error, match="Expected"):
        ledger.spend(event, label)
    assert ledger.digest == before


# Entries.


def test_consecutive_spends_of_one_event_and_label_are_one_entry():
    ledger = PrivacyLedger()
    for _ in range(1000):
        ledger.spend(STEP, "tuning")
    ledger.spend(repeated(STEP, 500), "tuning")
    assert ledger.entries == ((STEP, 1500, "tuning"),)


def test_another_event_or_label_begins_another_entry():
    ledger = ledger_of((STEP, "a"), (STEP, "b"), (RELEASE, "b"), (STEP, "b"))
    assert ledger.entries == (
        (STEP, 1, "a"),
        (STEP, 1, "b"),
        (RELEASE, 1, "b"),
        (STEP, 1, "b"),
    )


def test_one_by_one_and_at_once_are_the_same_ledger():
    singly = PrivacyLedger((3.0, DELTA))
    for _ in range(40):
        singly.spend(STEP, "tuning")
    at_once = ledger_of((repeated(STEP, 40), "tuning"), budget=(3.0, DELTA))
    assert singly.digest == at_once.digest


# The budget.


def test_the_step_that_would_pass_the_budget_is_refused_before_it_is_taken():
    limit = 1.0
    ledger = PrivacyLedger(Budget(limit, DELTA))

    def loop():
        for _ in range(10**6):
            ledger.spend(STEP, "tuning")

    with pytest.raises(BudgetExceeded) as raised:
        loop()
    taken = ledger.entries[0].times
    expected = accounting.calibrate_num_steps(
        target_epsilon=limit, delta=DELTA, noise_multiplier=1.0, sampling_prob=0.01
    )
    assert taken == expected
    assert ledger.epsilon(DELTA) <= limit < raised.value.epsilon
    assert raised.value.label == "tuning"


@pytest.mark.parametrize("event", [STEP, RELEASE, LEAK, repeated(STEP, 10**5)])
def test_a_refused_release_leaves_the_ledger_as_it_was(event):
    ledger = ledger_of(*PHASES, budget=(2.0, DELTA))
    room = ledger.remaining(STEP)
    ledger.spend(repeated(STEP, room), "tuning")
    before = ledger.to_json()
    for _ in range(2):
        with pytest.raises(BudgetExceeded):
            ledger.spend(event, "more")
    assert ledger.to_json() == before
    ledger.spend(PUBLIC, "public data still costs nothing")


def test_what_remains_fits_and_one_more_does_not():
    ledger = ledger_of(*PHASES, budget=(2.0, DELTA))
    room = ledger.remaining(RELEASE)
    assert room > 0
    assert ledger.remaining(repeated(RELEASE, 2)) == room // 2
    ledger.spend(repeated(RELEASE, room), "statistics")
    assert ledger.remaining(RELEASE) == 0
    with pytest.raises(BudgetExceeded):
        ledger.spend(RELEASE, "statistics")


def test_without_a_budget_nothing_remains_to_be_asked():
    with pytest.raises(ValueError, match="Expected a ledger with a budget"):
        PrivacyLedger().remaining(STEP)


def test_a_loop_of_many_steps_asks_the_accountant_a_few_times(monkeypatch):
    asked = []
    whole = accountants.event_epsilon

    def counting(event, delta, **options):
        asked.append(options)
        return whole(event, delta, **options)

    monkeypatch.setattr(accountants, "event_epsilon", counting)
    ledger = PrivacyLedger((3.0, DELTA))
    for _ in range(2400):
        ledger.spend(STEP, "tuning")
    assert len(asked) < 20


def test_a_thousand_different_releases_cost_their_own_divergences_alone(monkeypatch):
    computed, asked = [], []
    divergences, whole = sampled_gaussian.divergences, accountants.event_epsilon

    def counting(pairs, orders, **options):
        computed.append(len(pairs))
        return divergences(pairs, orders, **options)

    def asking(event, delta, **options):
        asked.append(options)
        return whole(event, delta, **options)

    monkeypatch.setattr(sampled_gaussian, "divergences", counting)
    monkeypatch.setattr(accountants, "event_epsilon", asking)
    ledger = PrivacyLedger((20.0, DELTA))
    for number in range(1000):
        noise = dp_accounting.GaussianDpEvent(1.0 + 1e-3 * number)
        ledger.spend(dp_accounting.PoissonSampledDpEvent(0.0056, noise), "tuning")
    # Each its own, and now and then one that covers those to come.
    assert 1000 <= sum(computed) <= 1020
    assert set(computed) == {1}
    assert not asked


SPENDS = st.lists(
    # Plain Gaussian releases, which have a closed form.
    st.tuples(
        st.sampled_from([repeated(RELEASE, 7), RELEASE, PUBLIC]),
        st.sampled_from("ab"),
    ),
    max_size=12,
)


@given(SPENDS, st.floats(0.3, 3.0))
def test_no_sequence_of_spends_passes_the_budget(spends, limit):
    ledger = PrivacyLedger((limit, DELTA))
    for event, label in spends:
        with contextlib.suppress(BudgetExceeded):
            ledger.spend(event, label)
    assert ledger.epsilon(DELTA) <= limit


# Kept.


@given(SPENDS, st.sampled_from([None, Budget(9.0, 1e-7)]))
def test_a_ledger_comes_back_from_json(spends, budget):
    ledger = ledger_of(*spends, budget=budget)
    found = PrivacyLedger.from_json(ledger.to_json(), digest=ledger.digest)
    assert found.to_json() == ledger.to_json()
    assert (found.entries, found.budget) == (ledger.entries, ledger.budget)


def test_a_ledger_goes_on_where_it_was_saved(tmp_path):
    path = tmp_path / "ledger.json"
    ledger = ledger_of(*PHASES, budget=(2.0, DELTA))
    ledger.save(path)
    found = PrivacyLedger.load(path, digest=ledger.digest)
    assert found.remaining(STEP) == ledger.remaining(STEP)
    for one in (ledger, found):
        one.spend(STEP, "tuning")
    assert found.digest == ledger.digest


def test_a_whole_file_written_anew_is_told_by_the_digest_kept_elsewhere():
    ledger, forged = ledger_of(*PHASES), ledger_of(*PHASES[:2])
    with pytest.raises(LedgerError, match=ledger.digest):
        PrivacyLedger.from_json(forged.to_json(), digest=ledger.digest)


def test_a_changed_file_is_refused_with_the_entry_named(tmp_path):
    path = tmp_path / "ledger.json"
    ledger_of(*PHASES).save(path)
    text = path.read_text()
    assert text.count('"times": 700') == 1
    path.write_text(text.replace('"times": 700', '"times": 70'))
    with pytest.raises(LedgerError, match=r"entry 4 \('tuning'\)"):
        PrivacyLedger.load(path)


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        PrivacyLedger.load(tmp_path / "ledger.json")


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "ledger.json"
    ledger_of(*PHASES[:2]).save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(_files.WriteError, match=r"No space left on device.*ledger"):
        ledger_of(*PHASES).save(path)
    assert path.read_bytes() == before


# Merging.


@given(SPENDS, SPENDS, SPENDS)
def test_merging_is_associative_and_keeps_the_order(first, second, third):
    a, b, c = (ledger_of(*spends) for spends in (first, second, third))
    whole = ledger_of(*first, *second, *third)
    assert a.merge(b).merge(c).digest == whole.digest
    assert a.merge(b.merge(c)).digest == whole.digest


def test_merging_leaves_both_as_they_were_and_composes_them():
    one, other = ledger_of(*PHASES[:2]), ledger_of(*PHASES[2:])
    before = one.digest, other.digest
    both = one.merge(other)
    assert both.epsilon(DELTA) == pytest.approx(ledger_of(*PHASES).epsilon(DELTA))
    assert both.epsilon(DELTA) == pytest.approx(other.merge(one).epsilon(DELTA))
    assert (one.digest, other.digest) == before


def test_a_merged_ledger_keeps_the_budget_and_goes_on():
    one = ledger_of(PHASES[1], budget=(2.0, DELTA))
    both = one.merge(ledger_of(PHASES[2]))
    assert both.budget == ledger_of(PHASES[2]).merge(one).budget == (2.0, DELTA)
    both.spend(repeated(STEP, both.remaining(STEP)), "tuning")
    with pytest.raises(BudgetExceeded):
        both.spend(STEP, "tuning")


def test_ledgers_that_pass_the_budget_together_are_not_merged():
    one = ledger_of((repeated(STEP, 900), "tuning"), budget=(2.0, DELTA))
    with pytest.raises(BudgetExceeded, match="label='tuning'"):
        one.merge(one)


@pytest.mark.parametrize(
    ("other", "error"),
    [
        (PrivacyLedger((3.0, DELTA)), ValueError),
        (PrivacyLedger(relation=Relation.REPLACE_ONE), ValueError),
        (None, TypeError),
        ([], TypeError),
    ],
    ids=["budget", "relation", "none", "list"],
)
def test_ledgers_of_other_terms_are_not_merged(other, error):
    with pytest.raises(error, match="Expected a"):
        PrivacyLedger((2.0, DELTA)).merge(other)


# As text.


def test_the_table_is_at_the_delta_of_the_budget_unless_another_is_given():
    ledger = ledger_of(*PHASES[2:3], budget=(2.0, DELTA))
    assert ledger.table() == ledger.table(DELTA)
    assert "at delta 1e-07" in ledger.table(1e-7)
    assert [row.label for row in ledger.spending(DELTA)] == ["statistics"]
    with pytest.raises(ValueError, match="Expected a delta"):
        PrivacyLedger().table()


def test_a_ledger_as_text_lists_its_entries():
    ledger = ledger_of(*PHASES, budget=(5.0, DELTA))
    lines = str(ledger).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["pre-training", "1"],
        ["tuning", "300"],
        ["statistics", "1"],
        ["tuning", "700"],
    ]
    assert repr(ledger) == (
        "PrivacyLedger(budget=Budget(epsilon=5.0, delta=1e-05), "
        f"relation=ADD_OR_REMOVE_ONE, releases=1002, digest={ledger.digest[:12]})"
    )
