"""What stops a run at its budget."""

from dpjax.accounting import BudgetExceeded


def test_a_spent_budget_is_not_a_wrong_value():
    assert issubclass(BudgetExceeded, Exception)
    assert not issubclass(BudgetExceeded, ValueError)
