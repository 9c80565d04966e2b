"""A budget is a pair of numbers in range; passing it is an error with the numbers."""

import math

import dp_accounting
import pytest
from dp_accounting import dp_event

from dpjax.accounting import accountants, budget
from dpjax.accounting.budget import Budget, BudgetExceeded
from dpjax.accounting.events import Relation


def test_a_pair_of_numbers_is_a_budget():
    assert budget.checked((3, 1e-5)) == Budget(epsilon=3.0, delta=1e-5)
    assert budget.checked(Budget(3.0, 1e-5)) == (3.0, 1e-5)
    assert budget.checked(None) is None


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (3.0, TypeError),
        ([3.0, 1e-5], TypeError),
        ((3.0,), TypeError),
        (("3", 1e-5), TypeError),
        ((0.0, 1e-5), ValueError),
        ((-1.0, 1e-5), ValueError),
        ((math.inf, 1e-5), ValueError),
        ((3.0, 0.0), ValueError),
        ((3.0, 1.0), ValueError),
        ((3.0, math.nan), ValueError),
    ],
)
def test_a_budget_out_of_range_is_refused(value, error):
    with pytest.raises(error, match=r"Expected .*budget"):
        budget.checked(value)


def test_the_error_says_what_for_and_how_much():
    error = BudgetExceeded("tuning", 3.00001, Budget(3.0, 1e-5))
    assert (error.label, error.epsilon, error.budget) == ("tuning", 3.00001, (3, 1e-5))
    assert str(error) == (
        "Expected a release within the budget of epsilon 3 at delta 1e-05, got "
        "label='tuning', which would make it 3.001."
    )


@pytest.mark.parametrize(("limit", "method"), [(9.0, "rdp"), (1.0, "exact")])
def test_a_quick_bound_does_where_it_is_within_the_budget(limit, method):
    step = dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(1.0))
    event = dp_accounting.SelfComposedDpEvent(step, 1000)
    found = budget.cost(event, Budget(limit, 1e-5), Relation.ADD_OR_REMOVE_ONE)
    assert found == accountants.event_epsilon(event, 1e-5, accountant=method)
    assert (found <= limit) == (method == "rdp")


def test_an_event_without_a_renyi_account_has_its_exact_cost():
    event = dp_event.DiscreteLaplaceDpEvent(0.1, 1)
    found = budget.cost(event, Budget(9.0, 1e-5), Relation.ADD_OR_REMOVE_ONE)
    assert found == accountants.event_epsilon(event, 1e-5)
