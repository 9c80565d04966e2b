"""The running cost is the sum of what was added, and asks for little."""

import math

import dp_accounting
import pytest
from dp_accounting import dp_event

from dpjax.accounting import accountants
from dpjax.accounting.events import Relation
from dpjax.accounting.ledgers import running
from dpjax.accounting.ledgers.budget import Budget
from dpjax.accounting.renyi import sampled_gaussian

DELTA = 1e-5
ADD, REPLACE = Relation.ADD_OR_REMOVE_ONE, Relation.REPLACE_ONE


def sampled(noise, rate=0.01):
    return dp_accounting.PoissonSampledDpEvent(
        rate, dp_accounting.GaussianDpEvent(noise)
    )


def composed(parts):
    return dp_accounting.ComposedDpEvent(
        [dp_accounting.SelfComposedDpEvent(event, count) for event, count in parts]
    )


def cost_of(parts, more, limit=math.inf, relation=ADD):
    found = running.RunningCost(Budget(limit, DELTA), relation)
    for event, count in parts:
        found.add(event, count)
    return found.cost(more)


PARTS = [(sampled(1.0), 300), (dp_accounting.GaussianDpEvent(9.0), 2)]
MORE = [(sampled(2.0, 0.1), 7), (sampled(1.0), 40)]


@pytest.mark.parametrize("relation", [ADD, REPLACE])
def test_a_quick_bound_lies_close_above_the_renyi_accountants(relation):
    found = cost_of(PARTS, MORE, relation=relation)
    best = accountants.event_epsilon(
        composed(PARTS + MORE), DELTA, accountant="rdp", relation=relation
    )
    # Twelve orders to a decade: around the best one, the bound is flat.
    assert best <= found <= 1.02 * best


@pytest.mark.parametrize("relation", [ADD, REPLACE])
def test_what_is_beyond_the_budget_has_its_exact_cost(relation):
    found = cost_of(PARTS, MORE, limit=1e-3, relation=relation)
    exact = accountants.event_epsilon(composed(PARTS + MORE), DELTA, relation=relation)
    assert found == exact


def test_an_event_without_a_renyi_account_has_its_exact_cost():
    event = dp_event.DiscreteLaplaceDpEvent(0.1, 1)
    found = cost_of([(event, 1)], [(event, 1)], limit=9.0)
    assert found == accountants.event_epsilon(composed([(event, 2)]), DELTA)


def test_a_leak_makes_it_infinite():
    assert cost_of([(dp_accounting.NonPrivateDpEvent(), 1)], PARTS, 9.0) == math.inf


def test_nothing_costs_nothing():
    assert cost_of([], []) == 0
    assert cost_of([(dp_accounting.NoOpDpEvent(), 5)], []) == 0


def test_what_agrees_nearly_is_gathered_before_the_exact_accountant_is_asked(
    monkeypatch,
):
    sizes = []
    whole = accountants.event_epsilon

    def counting(event, delta, **options):
        sizes.append(len(event.events))
        return whole(event, delta, **options)

    monkeypatch.setattr(accountants, "event_epsilon", counting)
    parts = [(sampled(1.0 + 1e-5 * n), 10) for n in range(100)]
    exact, rdp = (
        whole(composed(parts), DELTA, accountant=name) for name in ("exact", "rdp")
    )
    limit = 0.5 * (exact + rdp)
    found = cost_of(parts, [], limit=limit)
    assert exact <= found <= limit
    assert len(sizes) == 1
    assert sizes[0] <= 2


def test_each_different_event_has_its_divergences_computed_once(monkeypatch):
    asked = []
    whole = sampled_gaussian.divergences

    def counting(pairs, orders, **options):
        asked.append(len(pairs))
        return whole(pairs, orders, **options)

    monkeypatch.setattr(sampled_gaussian, "divergences", counting)
    found = running.RunningCost(Budget(math.inf, DELTA), ADD)
    different = [sampled(3.0 + 1e-3 * n, 0.0123) for n in range(50)]
    for event in different * 2:
        found.cost([(event, 1)])
        found.add(event, 1)
    assert asked == [1] * 50


def test_counts_add_up_however_they_are_added():
    event = sampled(1.0)
    singly = cost_of([(event, 1)] * 40, [])
    assert singly == pytest.approx(cost_of([(event, 40)], []), rel=1e-12)
