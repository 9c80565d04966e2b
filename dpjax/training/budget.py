"""What each logged step has cost, and how many steps a budget pays for.

Everything is computed before the first step: the cost of a step does not depend on the
data, so that the loop is never held up by an accountant.
"""

from collections.abc import Sequence
from typing import Any

from dpjax.accounting import accountants

ACCOUNTANTS = accountants.NAMES
"""The accountants whose epsilon is reported: the exact one first."""


def logged_steps(num_steps: int, every: int) -> list[int]:
    """Return every `every`-th step, and the last."""
    return [step for step in range(1, num_steps + 1) if is_due(step, every, num_steps)]


def is_due(step: int, every: int, num_steps: int) -> bool:
    """Tell whether what is done every `every` steps, and last, is due after `step`."""
    return step % every == 0 or step == num_steps


def affordable_steps(mechanism: Any, delta: float, max_epsilon: float) -> int:
    """Return the largest number of steps that keeps epsilon within `max_epsilon`.

    Args:
      mechanism: has `num_steps` and `epsilon(delta, step=..., accountant=...)`.
      delta: in (0, 1).
      max_epsilon: the budget, > 0; the exact accountant decides.

    Returns:
      A number in `[0, num_steps]`, by bisection: epsilon never falls with the steps.
    """

    def fits(step: int) -> bool:
        spent = mechanism.epsilon(delta, step=step, accountant="exact")
        return bool(spent <= max_epsilon)

    if fits(mechanism.num_steps):
        return mechanism.num_steps
    low, high = 0, mechanism.num_steps
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def epsilon_table(
    mechanism: Any, delta: float, steps: Sequence[int]
) -> dict[int, dict[str, float]]:
    """Return the epsilon of each accountant after each of `steps`."""
    columns = [
        mechanism.epsilon_curve(delta, steps, accountant=name) for name in ACCOUNTANTS
    ]
    rows = zip(*columns, strict=True)
    return {
        step: dict(zip(ACCOUNTANTS, map(float, row), strict=True))
        for step, row in zip(steps, rows, strict=True)
    }
