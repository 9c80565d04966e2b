"""The most that may be spent, and the error that stops what would pass it."""

from typing import Any, NamedTuple

from dpjax import _check
from dpjax.accounting import figures


class Budget(NamedTuple):
    """The most that a ledger may spend.

    Attributes:
      epsilon: in nats, above 0.
      delta: in (0, 1).
    """

    epsilon: float
    delta: float


class BudgetExceeded(ValueError):
    """A release would pass the budget; it is not recorded and must not be made.

    Attributes:
      label: what the release was for.
      epsilon: what all releases would cost with it, in nats, at the budget's delta.
      budget: the budget.
    """

    def __init__(self, label: str, epsilon: float, budget: Budget) -> None:
        self.label, self.epsilon, self.budget = label, epsilon, budget
        super().__init__(
            f"Expected a release within the budget of epsilon {budget.epsilon:g} at "
            f"delta {budget.delta:g}, got label={label!r}, which would make it "
            f"{figures.number_up(epsilon)}."
        )


def checked(value: Any) -> Budget | None:
    """Return a budget from a pair (epsilon, delta) of numbers in range, or None."""
    if value is None:
        return None
    if not isinstance(value, tuple) or len(value) != 2:
        _check.fail("a budget (epsilon, delta)", "budget", value, TypeError)
    epsilon = _check.positive("budget.epsilon", value[0])
    return Budget(epsilon, _check.open_unit("budget.delta", value[1]))
