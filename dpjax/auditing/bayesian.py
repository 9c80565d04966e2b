"""A credible interval for epsilon, from a prior on the two error rates."""

import functools
import math

import numpy as np
from scipy import optimize, stats

from dpjax import _check
from dpjax.auditing.lower_bound import checked_delta
from dpjax.auditing.rates import Counts

_MOST = 100.0
"""Beyond this many nats the interval has no end."""

_NUM_NODES = 400


def credible_interval(
    true_positives: int,
    num_in: int,
    false_positives: int,
    num_out: int,
    *,
    delta: float,
    significance: float,
) -> tuple[float, float]:
    """Return an interval that holds epsilon with probability 1 - significance.

    False positive and false negative rate have independent Jeffreys priors. Epsilon is
    the least with which both rates are allowed. It is a credible interval, no bound
    that holds at some confidence: `epsilon_from_counts` has those.

    Args:
      true_positives: members called members, of `num_in`.
      num_in: members.
      false_positives: others called members, of `num_out`.
      num_out: others.
      delta: in [0, 1).
      significance: in (0, 1); half of it is left out on either side.

    Returns:
      The ends in nats; the right one may be infinite.

    Raises:
      ValueError, TypeError: see `Counts.checked`; a number is out of range.

    Example:
      >>> low, high = credible_interval(
      ...     487, 487, 512, 513, delta=1e-5, significance=0.1
      ... )
      >>> round(low, 2), round(high, 2)
      (0.14, 6.42)

    References:
      Zanella-Beguelin et al. (2022), Bayesian estimation of differential privacy.
    """
    counts = Counts.checked(true_positives, num_in, false_positives, num_out)
    delta = checked_delta(delta)
    tail = _check.open_unit("significance", significance) / 2
    return _quantile(counts, delta, tail), _quantile(counts, delta, 1 - tail)


def _quantile(counts: Counts, delta: float, share: float) -> float:
    def excess(epsilon: float) -> float:
        return posterior(counts, delta, epsilon) - share

    if excess(0.0) >= 0:
        return 0.0
    if excess(_MOST) <= 0:
        return math.inf
    return float(optimize.brentq(excess, 0.0, _MOST, xtol=1e-9))


def posterior(counts: Counts, delta: float, epsilon: float) -> float:
    """Return the probability that (epsilon, delta)-DP allows the two rates."""
    true, num_in, false, num_out = counts
    missed = stats.beta(0.5 + num_in - true, 0.5 + true)
    rates, weights = _false_positive_rates(false, num_out)
    growth = math.exp(epsilon)
    low = np.maximum((1 - delta - rates) / growth, 1 - delta - growth * rates)
    high = np.minimum(1 - (rates - delta) / growth, growth * (1 - rates) + delta)
    allowed = missed.cdf(high.clip(0, 1)) - missed.cdf(low.clip(0, 1))
    return float(weights @ allowed.clip(min=0))


@functools.lru_cache(maxsize=8)
def _false_positive_rates(false: int, num_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a quadrature over the rate: nodes of its quantiles, and their weights."""
    nodes, weights = np.polynomial.legendre.leggauss(_NUM_NODES)
    law = stats.beta(0.5 + false, 0.5 + num_out - false)
    return law.ppf(0.5 + 0.5 * nodes), 0.5 * weights
