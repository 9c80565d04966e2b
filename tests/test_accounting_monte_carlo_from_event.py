"""The pair of output laws of an event."""

import dp_accounting
import numpy as np
import pytest
from accounting_cases import sampled

from dpjax._events import RandomAllocationDpEvent
from dpjax.accounting import AccountingError, event_delta
from dpjax.accounting import monte_carlo as mc

GAUSSIAN = dp_accounting.GaussianDpEvent
ALLOCATED = RandomAllocationDpEvent(12, 1, GAUSSIAN(1.0))
SETTINGS = {"samples": 40_000, "confidence": 0.999, "seed": 2}

EVENTS = {
    "plain": dp_accounting.SelfComposedDpEvent(GAUSSIAN(3.0), 9),
    "sampled": sampled(1.0, 0.05, 30),
    "allocated": dp_accounting.SelfComposedDpEvent(ALLOCATED, 3),
    "several": dp_accounting.ComposedDpEvent(
        [sampled(1.0, 0.1, 10), ALLOCATED, GAUSSIAN(3.0)]
    ),
}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_costs_what_its_accountant_says(name):
    truth = event_delta(EVENTS[name], 0.5)
    found = mc.delta(mc.pair_of(EVENTS[name]), 0.5, **SETTINGS)
    assert found.estimate == pytest.approx(truth, rel=0.1)
    assert truth < found.upper < 1.5 * truth


def test_several_participations_are_those_and_not_their_bound():
    event = RandomAllocationDpEvent(20, 4, GAUSSIAN(1.5))
    pair = mc.pair_of(event)
    assert pair.pairs[0].pair == mc.Allocated(1.5, 20, 4)
    ratios = pair.log_ratios(np.random.default_rng(1), 10, with_example=True)
    same = mc.Allocated(1.5, 20, 4).log_ratios(np.random.default_rng(1), 10, True)
    np.testing.assert_array_equal(ratios, same)


@pytest.mark.parametrize(
    "event",
    [
        dp_accounting.NoOpDpEvent(),
        dp_accounting.NonPrivateDpEvent(),
        GAUSSIAN(0.0),
        dp_accounting.LaplaceDpEvent(1.0),
        dp_accounting.SampledWithoutReplacementDpEvent(100, 10, GAUSSIAN(1.0)),
    ],
    ids=repr,
)
def test_other_events_have_no_pair(event):
    with pytest.raises(AccountingError, match=r"Expected .*, got event="):
        mc.pair_of(event)
