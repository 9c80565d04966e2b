"""A budget is a pair of numbers in range; passing it is an error with the numbers."""

import math

import pytest

from dpjax.accounting.ledgers import budget
from dpjax.accounting.ledgers.budget import Budget, BudgetExceeded


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
