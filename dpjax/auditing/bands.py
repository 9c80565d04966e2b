"""Bounds on the error rates of a score at all thresholds at once.

Let H(o) = P(O > o) be the rate at which others score above o, and o_k the k-th largest
of n such scores. H(o_1), ..., H(o_n) are, jointly, at most the order statistics U_(1)
<= ... <= U_(n) of n independent uniform numbers: equal to them where scores have no
atoms, below them else. So the test "above o_k", which called k - 1 of the n others
members, has a false positive rate of at most b_k for all k of a grid at once, with the
probability of

    U_(k) <= b_k for all k of the grid.

With b_k the (1 - eta) quantile of U_(k), which is that of Beta(k, n - k + 1), one level
eta makes this 1 - alpha. A threshold between two of the grid calls fewer others members
than the larger one. False negatives of members are the same, mirrored.

The probability is exact: given N uniform numbers below b_k, those in the next interval
are binomial; with a Poisson number of them in place of n, intervals are independent and
the recursion is a convolution (Moscovich and Nadler 2017).

References:
  Berk and Jones (1979), Goodness-of-fit test statistics that dominate the Kolmogorov
  statistics; Owen (1995), Nonparametric likelihood confidence bands for a distribution
  function; Moscovich and Nadler (2017), Fast calculation of boundary crossing
  probabilities for Poisson processes.
"""

import functools

import numpy as np
import numpy.typing as npt
from scipy import optimize, signal, stats

_GRID = 48
"""Counts for which a bound is made: the smallest all, then ever fewer."""

_MOST_EXACT = 50_000
"""More scores than these pay for the grid by Bonferroni's inequality."""


def error_bounds(
    counts: npt.ArrayLike, num_scores: int, significance: float
) -> np.ndarray:
    """Return upper bounds on error rates, for any counts of errors, all at once.

    Args:
      counts: (...) errors among the scores, each at a threshold of its own.
      num_scores: of which the errors are some.
      significance: in (0, 1), the probability, at most, that any bound is too low.
    """
    grid = grid_of(num_scores)
    bounds = np.append(_bounds(num_scores, level(num_scores, significance)), 1.0)
    return bounds[np.searchsorted(grid, np.asarray(counts) + 1)]


def grid_of(num_scores: int) -> np.ndarray:
    """Return the ranks k that the band is made of, increasing."""
    spread = np.geomspace(1, num_scores, _GRID).round().astype(int)
    return np.unique(np.append(np.arange(1, min(num_scores, 8) + 1), spread))


@functools.lru_cache(maxsize=256)
def level(num_scores: int, significance: float) -> float:
    """Return the level at which each bound holds, so that all do."""
    least = significance / grid_of(num_scores).size
    if num_scores > _MOST_EXACT or least == significance:
        return least

    def excess(log_level: float) -> float:
        return all_hold(num_scores, float(np.exp(log_level))) - (1 - significance)

    ends = np.log(least), np.log(significance)
    # A little below the root: its error is on the safe side.
    return float(np.exp(optimize.brentq(excess, *ends, xtol=1e-5) - 1e-5))


def all_hold(num_scores: int, each: float) -> float:
    """Return the probability that all bounds of level `each` hold."""
    sizes = np.arange(num_scores + 1)
    reached = np.zeros(num_scores + 1)
    reached[0], last = 1.0, 0.0
    for rank, bound in zip(grid_of(num_scores), _bounds(num_scores, each), strict=True):
        more = stats.poisson.pmf(sizes, num_scores * (bound - last))
        reached = np.maximum(signal.fftconvolve(reached, more)[: num_scores + 1], 0.0)
        reached[:rank] = 0.0
        last = bound
    rest = stats.poisson.pmf(sizes[::-1], num_scores * (1 - last))
    return float(reached @ rest / stats.poisson.pmf(num_scores, num_scores))


def _bounds(num_scores: int, each: float) -> np.ndarray:
    grid = grid_of(num_scores)
    return stats.beta.isf(each, grid, num_scores - grid + 1)
