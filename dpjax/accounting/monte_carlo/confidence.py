"""Upper confidence bounds on the mean of variables between 0 and 1."""

import math

import numpy as np
from scipy import optimize

_LEAST = 1e-300


def upper_mean(values: np.ndarray, failure: float) -> float:
    """Return an upper bound on the mean of the law of independent `values`.

    It is the smaller of two bounds, which fail with probability `failure` / 2 each:

    - of Chernoff and Hoeffding: the largest m with n kl(mean, m) <= log(2 / failure),
      good where hardly any value is not 0;
    - empirical Bernstein: mean + (2 V log(4 / failure) / n)^(1/2) + 7 log(4 / failure)
      / (3 (n - 1)), with V the sample variance, good where there are many.

    Args:
      values: (n,) numbers in [0, 1], n >= 2, independent draws of one law.
      failure: probability, in (0, 1), with which the bound may be below the mean.

    References:
      Hoeffding (1963), Probability inequalities for sums of bounded random variables,
      theorem 1; Maurer and Pontil (2009), Empirical Bernstein bounds and sample
      variance penalization, theorem 4.
    """
    mean, count = float(values.mean()), values.size
    log_ratio = math.log(4 / failure)
    spread = math.sqrt(2 * float(values.var(ddof=1)) * log_ratio / count)
    bernstein = mean + spread + 7 * log_ratio / (3 * (count - 1))
    return min(1.0, bernstein, _chernoff(mean, math.log(2 / failure) / count))


def least_upper(count: int, failure: float) -> float:
    """Return the least that `upper_mean` may be, of `count` values that are all 0."""
    return -math.expm1(math.log(failure / 2) / count)


def _chernoff(mean: float, budget: float) -> float:
    """Return the largest m with kl(mean, m) <= budget."""
    if mean >= 1:
        return 1.0

    def excess(rest: float) -> float:
        return _divergence(mean, rest) - budget

    # In terms of 1 - m, between 0 and 1 - mean, the divergence falls.
    low = (1 - mean) * math.exp(-(budget + math.log(2)) / (1 - mean))
    if low < _LEAST:
        return 1.0
    root = optimize.brentq(excess, low, 1 - mean, xtol=_LEAST, rtol=1e-14)
    return 1 - float(root) * (1 - 1e-13)


def _divergence(p: float, rest: float) -> float:
    """Return kl(p, m) of two coins, for p <= m = 1 - rest < 1."""
    near = p * math.log(p / max(p, 1 - rest)) if p else 0.0
    return near + (1 - p) * math.log((1 - p) / rest)
