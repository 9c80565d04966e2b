"""Lower bounds on epsilon from the guesses about the canaries of a single run.

Of m canaries each is put into the training set or left out, by a fair coin of its own.
An adversary who sees what was released guesses the coins of those canaries of which he
is most certain, and abstains on the rest. Private training allows only so many right
guesses.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import dp_accounting
import numpy as np
from scipy import special, stats

from dpjax import _check
from dpjax.accounting import event_epsilon, trade_off_curve
from dpjax.auditing.lower_bound import LowerBound, checked_delta

METHODS = ("dp", "fdp")

_HALVINGS, _FEW_HALVINGS = 50, 8
_STRIDE = math.log(3)
_LARGEST_EPSILON = 700.0
_MU_RANGE = (1e-4, 1e3)
_FEW_MU_RANGE = (0.02, 50.0)
"""One over the noise: of Gaussian releases, and of a mechanism, whose curves cost."""

InverseCurve = Callable[[float], float]
"""The least false positive rate of a test with the given true positive rate."""


class Guesses(NamedTuple):
    """What came of the guesses: `correct` of `guesses` about `canaries` were right."""

    canaries: int
    guesses: int
    correct: int


def one_run_epsilon(
    *,
    num_canaries: int,
    num_guesses: int,
    num_correct: int,
    delta: float,
    significance: float,
    method: str = "dp",
    mechanism: Callable[[float], dp_accounting.DpEvent] | None = None,
) -> LowerBound:
    """Return a lower bound on epsilon from the guesses about one run's canaries.

    | method, mechanism | the hypotheses that are tried                                |
    | ----------------- | ------------------------------------------------------------ |
    | "dp"              | (epsilon, delta)-DP                                          |
    | "fdp", None       | the trade-off curve of N(0, 1) and N(mu, 1), all mu          |
    | "fdp", given      | the trade-off curve of `mechanism(noise)`, all noises        |

    "fdp" is tighter, and right where the family holds the mechanism under audit: the
    Gaussian one does for full batches, and for sampled ones the mechanism's own, such
    as `lambda noise: dataclasses.replace(plan, noise_multiplier=noise).event()`.

    Args:
      num_canaries: m, whose inclusion was decided by fair coins, independently.
      num_guesses: about how many of them a guess was made, in or out; fixed before the
        scores were seen.
      num_correct: how many guesses were right.
      delta: in [0, 1); above 0 for "fdp".
      significance: in (0, 1), the probability, at most, that the bound is too high.
      method: "dp" or "fdp".
      mechanism: noise multiplier -> event of the run under audit, for "fdp".

    Raises:
      ValueError: a number is out of range, there are more guesses than canaries, or
        more right guesses than guesses.
      TypeError: a number is not of its type.

    Guarantee: a mechanism that is (epsilon, delta)-DP for adding or removing one canary
    (with "fdp": and whose trade-off curve is in the family) gives a bound above its
    epsilon with probability at most `significance`.

    Example:
      >>> bound = one_run_epsilon(num_canaries=1000, num_guesses=100, num_correct=75,
      ...                         delta=1e-4, significance=0.05)
      >>> round(bound, 3)
      0.673

    References:
      Steinke, Nasr and Jagielski (2023), Privacy auditing with one (1) training run,
      theorem 5.2; Mahloujifar, Melis and Chaudhuri (2024), Auditing f-differential
      privacy in one run, algorithm 3.
    """
    _check.choice("method", method, METHODS)
    guesses = _checked(num_canaries, num_guesses, num_correct)
    level = _check.open_unit("significance", significance)
    delta = checked_delta(delta)
    if method == "dp":
        if mechanism is not None:
            _check.fail("method='fdp' with a mechanism", "method", method)
        value = _dp_epsilon(guesses, delta, level)
    else:
        _check.open_unit("delta", delta)
        value = _fdp_epsilon(guesses, delta, level, mechanism)
    return LowerBound(value, delta=delta, significance=level, method=method)


def p_value(epsilon: float, guesses: Guesses, delta: float) -> float:
    """Return how probable so many right guesses are, at most, under (epsilon, delta).

    With q = e^epsilon / (1 + e^epsilon) and f(j) = P[Binomial(r, q) >= j], for v right
    ones of r guesses about m canaries: f(v) + 2 m delta max_i (f(v - i) - f(v)) / i.

    References:
      Steinke, Nasr and Jagielski (2023), theorem 5.2 and corollary 5.4.
    """
    right = guesses.correct
    rate = special.expit(epsilon)
    tail = stats.binom.sf(right - 1, guesses.guesses, rate)
    if delta == 0 or right == 0:
        return float(tail)
    steps = np.arange(1, right + 1)
    gains = stats.binom.sf(right - steps - 1, guesses.guesses, rate) - tail
    return float(min(1.0, tail + 2 * guesses.canaries * delta * np.max(gains / steps)))


def allows(inverse: InverseCurve, guesses: Guesses, significance: float) -> bool:
    """Tell whether a trade-off curve allows so many right guesses, at a level.

    References:
      Mahloujifar, Melis and Chaudhuri (2024), algorithm 3, for two options.
    """
    total, right = guesses.guesses, guesses.correct
    r = significance * right / guesses.canaries
    h = significance * (total - right) / guesses.canaries
    for i in range(right - 1, -1, -1):
        larger = inverse(min(r, 1.0))
        if larger <= h:
            # Nothing changes any more: r grows with h alone.
            break
        r, h = r + i / (total - i) * (larger - h), larger
    return r + h <= total / guesses.canaries


def gaussian_inverse(mu: float) -> InverseCurve:
    """Return the inverse for N(0, 1) against N(mu, 1)."""

    def inverse(true_positive_rate: float) -> float:
        return float(special.ndtr(special.ndtri(true_positive_rate) - mu))

    return inverse


def _checked(num_canaries: int, num_guesses: int, num_correct: int) -> Guesses:
    canaries = _check.integer("num_canaries", num_canaries, minimum=1)
    guesses = _check.integer("num_guesses", num_guesses, minimum=1)
    correct = _check.integer("num_correct", num_correct, minimum=0)
    if guesses > canaries:
        _check.fail(f"at most the {canaries} canaries", "num_guesses", guesses)
    if correct > guesses:
        _check.fail(f"at most the {guesses} guesses", "num_correct", correct)
    return Guesses(canaries, guesses, correct)


def _dp_epsilon(guesses: Guesses, delta: float, level: float) -> float:
    def rejected(epsilon: float) -> bool:
        return p_value(epsilon, guesses, delta) < level

    return _largest(rejected, 0.0, _LARGEST_EPSILON)


def _fdp_epsilon(
    guesses: Guesses,
    delta: float,
    level: float,
    mechanism: Callable[[float], dp_accounting.DpEvent] | None,
) -> float:
    """Return the epsilon of the weakest member of a family that is rejected."""
    event = dp_accounting.GaussianDpEvent if mechanism is None else mechanism

    @functools.cache
    def rejected(log_mu: float) -> bool:
        mu = math.exp(log_mu)
        inverse = gaussian_inverse(mu)
        if mechanism is not None:
            inverse = _inverse_of(mechanism(1 / mu))
        return not allows(inverse, guesses, level)

    few = mechanism is not None
    low, high = map(math.log, _FEW_MU_RANGE if few else _MU_RANGE)
    if not rejected(low):
        return 0.0
    if few:
        low, high = _bracket(rejected, low, high)
    halvings = _FEW_HALVINGS if few else _HALVINGS
    log_mu = _largest(rejected, low, high, halvings=halvings)
    return event_epsilon(event(math.exp(-log_mu)), delta)


def _inverse_of(event: dp_accounting.DpEvent) -> InverseCurve:
    """Return the inverse of a curve that is symmetric, and so its own inverse."""
    curve = trade_off_curve(event)

    def inverse(true_positive_rate: float) -> float:
        return float(curve.false_negative_rate(1 - true_positive_rate))

    return inverse


def _bracket(
    rejected: Callable[[float], bool], low: float, high: float
) -> tuple[float, float]:
    """Return a rejected number and one, not far above, that is not, or is `high`.

    Curves far from the answer are left alone: they are those of next to no noise, on
    which an accountant spends most.
    """
    while low + _STRIDE < high and rejected(low + _STRIDE):
        low += _STRIDE
    return low, min(low + _STRIDE, high)


def _largest(
    rejected: Callable[[float], bool],
    low: float,
    high: float,
    *,
    halvings: int = _HALVINGS,
) -> float:
    """Return the largest rejected number: all below one that is rejected are."""
    if not rejected(low):
        return low
    if rejected(high):
        return high
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low
