"""What no epsilon of sampled Gaussian steps may be below: tests that tell data apart.

For any event T of the released values, delta(epsilon) >= P(T) - e^epsilon Q(T). Here
T is that the sum of all steps, or any one of them, is above a threshold: P(T) and Q(T)
are then normal tails, in mpmath, weighted with binomial ones.
"""

import math

import mpmath
from scipy import stats

DIGITS = 40
SLACK = mpmath.mpf("1e-9")
"""What binomial tails, which are computed in float64, are distrusted by."""


def log_delta(epsilon, noise, rate, steps, replaced=False):
    """Return a lower bound on the logarithm of delta at an epsilon, as a float.

    Args:
      epsilon: in nats, finite.
      noise: standard deviation of each step's noise, in clip norms.
      rate: probability with which the example enters a step.
      steps: how many, independent of each other.
      replaced: whether the example moves the sum down, in the other data set, instead
        of not at all.
    """
    with mpmath.workdps(DIGITS):
        best = mpmath.mpf(0)
        for entered, weight in _takings(rate, steps):
            threshold = _threshold(epsilon, noise, entered, weight, steps, replaced)
            best = max(
                best,
                _of_sum(threshold, epsilon, noise, entered, weight, steps, replaced),
            )
        threshold = _threshold(epsilon, noise, 1, rate, 1, replaced)
        best = max(best, _of_any(threshold, epsilon, noise, rate, steps, replaced))
        return float(mpmath.log(best)) if best > 0 else -math.inf


def _takings(rate, steps):
    """Return numbers of steps that an example enters, and how likely it enters more."""
    rate = mpmath.mpf(rate)
    found = {steps: rate**steps, 1: -mpmath.expm1(steps * mpmath.log1p(-rate))}
    if rate == 1:
        return [(steps, rate)]
    mean, deviation = steps * float(rate), math.sqrt(steps * float(rate))
    for multiple in (-3, 0, 3, 6, 12):
        entered = math.ceil(mean + multiple * deviation)
        if 1 < entered < steps:
            tail = stats.binom.sf(entered - 1, steps, float(rate))
            found[entered] = mpmath.mpf(tail) * (1 - SLACK)
    return [(entered, weight) for entered, weight in found.items() if weight > 0]


def _threshold(epsilon, noise, entered, weight, steps, replaced):
    """Return where the odds of a mixture of two normal laws are e^epsilon."""
    spread = mpmath.mpf(noise) ** 2 * steps
    odds = mpmath.mpf(epsilon) + mpmath.log1p(
        -(1 - mpmath.mpf(weight)) * mpmath.exp(-mpmath.mpf(epsilon))
    )
    odds -= mpmath.log(weight)
    if replaced and weight == 1:
        return odds * spread / (2 * entered)
    return odds * spread / entered + mpmath.mpf(entered) / 2


def _of_sum(threshold, epsilon, noise, entered, weight, steps, replaced):
    spread = mpmath.mpf(noise) * mpmath.sqrt(steps)
    still = _above(threshold / spread)
    up = _above((threshold - entered) / spread)
    down = _above((threshold + entered) / spread) if replaced else still
    # The weight is one from below: it may stand in both lines.
    likely = weight * up + (1 - weight) * still
    unlikely = weight * down + (1 - weight) * still
    return likely - mpmath.exp(epsilon) * unlikely


def _of_any(threshold, epsilon, noise, rate, steps, replaced):
    rate, noise = mpmath.mpf(rate), mpmath.mpf(noise)
    still = _above(threshold / noise)
    up = rate * _above((threshold - 1) / noise) + (1 - rate) * still
    down = still
    if replaced:
        down = rate * _above((threshold + 1) / noise) + (1 - rate) * still
    likely, unlikely = (
        -mpmath.expm1(steps * mpmath.log1p(-tail)) if tail < 1 else mpmath.mpf(1)
        for tail in (up, down)
    )
    return likely - mpmath.exp(epsilon) * unlikely


def _above(z):
    """Return the mass of the standard normal law above z."""
    return mpmath.erfc(z / mpmath.sqrt(2)) / 2
