"""Entries: an event is copied, and taken out of its compositions with itself."""

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import dp_event

from dpjax.accounting.epsilon import AccountingError
from dpjax.accounting.ledgers import ledger_entry

GAUSSIAN = dp_accounting.GaussianDpEvent(1.0)


def self_composed(event, *counts):
    for count in counts:
        event = dp_accounting.SelfComposedDpEvent(event, count)
    return event


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (GAUSSIAN, (GAUSSIAN, 1)),
        (self_composed(GAUSSIAN, 10), (GAUSSIAN, 10)),
        (self_composed(GAUSSIAN, 10, 3), (GAUSSIAN, 30)),
        (self_composed(GAUSSIAN, 0), (self_composed(GAUSSIAN, 0), 1)),
        (dp_accounting.NoOpDpEvent(), (dp_accounting.NoOpDpEvent(), 1)),
    ],
    ids=repr,
)
def test_compositions_of_an_event_with_itself_are_counted(event, expected):
    assert ledger_entry.canonical(event) == expected


def test_what_happens_to_a_list_later_changes_nothing():
    parts = [GAUSSIAN]
    event, _ = ledger_entry.canonical(dp_accounting.ComposedDpEvent(parts))
    parts.clear()
    assert event.events == [GAUSSIAN]


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (None, TypeError),
        ("GaussianDpEvent(1.0)", TypeError),
        (dp_accounting.UnsupportedDpEvent(), TypeError),
        (dp_accounting.GaussianDpEvent(-1.0), ValueError),
        (dp_accounting.GaussianDpEvent(math.nan), ValueError),
        (dp_accounting.PoissonSampledDpEvent(1.1, GAUSSIAN), ValueError),
        (self_composed(GAUSSIAN, -1), ValueError),
        (self_composed(GAUSSIAN, 1.5), TypeError),
        (
            dp_accounting.PoissonSampledDpEvent(
                0.1,
                dp_accounting.ComposedDpEvent(2 * [dp_accounting.LaplaceDpEvent(1)]),
            ),
            AccountingError,
        ),
    ],
    ids=repr,
)
def test_an_event_that_cannot_be_accounted_for_is_refused(event, error):
    with pytest.raises(error, match="Expected"):
        ledger_entry.canonical(event)


def test_arrays_in_events_are_no_obstacle():
    one, other = (
        dp_event.MixtureOfGaussiansDpEvent(1.0, np.arange(2), np.array([0.5, 0.5]))
        for _ in range(2)
    )
    assert not ledger_entry.same(one, other)
    assert ledger_entry.canonical(one) == ledger_entry.canonical(other)


@pytest.mark.parametrize(
    ("label", "error"), [(None, TypeError), (1, TypeError), ("", ValueError)]
)
def test_a_label_says_something(label, error):
    with pytest.raises(error, match="Expected a text"):
        ledger_entry.checked_label(label)
