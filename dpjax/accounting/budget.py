"""What is raised when a privacy budget does not allow a step."""


class BudgetExceeded(Exception):
    """The next step would spend more than the budget; it has not been taken."""
