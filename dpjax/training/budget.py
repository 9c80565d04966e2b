"""What each logged step has cost, and how many steps a budget pays for.

Everything is computed before the first step: the cost of a step does not depend on the
data, so that the loop is never held up by an accountant.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dpjax import accounting, sampling
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
    columns = [_column(mechanism, delta, steps, name) for name in ACCOUNTANTS]
    rows = zip(*columns, strict=True)
    return {
        step: dict(zip(ACCOUNTANTS, map(float, row), strict=True))
        for step, row in zip(steps, rows, strict=True)
    }


def _column(
    mechanism: Any, delta: float, steps: Sequence[int], accountant: str
) -> np.ndarray:
    """Return epsilon after each of `steps`, which increase.

    Where the sampling is not Poisson, each point costs as much as the next; but where
    both ends of a stretch have the same epsilon, so has all between them: with shuffled
    epochs, epsilon moves once an epoch.
    """
    if isinstance(mechanism.sampler, sampling.Poisson):
        return accounting.epsilon_curve(
            noise_multiplier=mechanism.noise_multiplier,
            sampling_prob=mechanism.sampling_prob,
            steps=steps,
            delta=delta,
            accountant=accountant,
        )
    values = np.full(len(steps), math.nan)

    def known(index: int) -> float:
        if math.isnan(values[index]):
            step = steps[index]
            values[index] = mechanism.epsilon(delta, step=step, accountant=accountant)
        return values[index]

    def fill(low: int, high: int) -> None:
        if high - low < 2:
            return
        if known(low) == known(high):
            values[low:high] = known(low)
            return
        middle = (low + high) // 2
        known(middle)
        fill(low, middle)
        fill(middle, high)

    if len(steps):
        known(0), known(len(steps) - 1)
        fill(0, len(steps) - 1)
    return values
