"""How far one example can move C X."""

from typing import NamedTuple

import numpy as np

from dpjax import _check
from dpjax.noise.correlated.participation import (
    ONCE,
    Cyclic,
    OncePerEpoch,
    Participation,
)
from dpjax.noise.correlated.strategy import Strategy, ToeplitzStrategy, check_steps
from dpjax.noise.correlated.tree import BinaryTree

MOST_DENSE_STEPS = 8192
"""Steps up to which sensitivity is taken from a dense matrix, where it must be."""


class Sensitivity(NamedTuple):
    """An L2 sensitivity.

    Attributes:
      value: of C X, for contributions of norm one.
      exact: whether an example can reach it; else it is an upper bound.
    """

    value: float
    exact: bool


def sensitivity(
    strategy: Strategy, num_steps: int, participation: Participation
) -> Sensitivity:
    """Return the L2 sensitivity of C X, for contributions of norm one to each row of X.

    With g_i of norm at most one the contribution to step i of a pattern, this is the
    largest norm of sum_i C_i g_i^T, which is at most the root of the sum of |G_ij| over
    the pairs of a pattern, G = C^T C, and equal to it where those entries are not
    negative. Patterns are too many to list; what is computed is, in this order,

    - columns as far apart as participations are orthogonal (few enough bands, or one
      participation): the best sum of their squared norms, exact;
    - C Toeplitz with coefficients >= 0 that do not increase: the columns 0, b, 2b, ...,
      exact (not for `OncePerEpoch`);
    - a tree: exact where participation is cyclic, else a bound level by level;
    - else from G: exact where participation is cyclic and G >= 0, else a bound.

    Args:
      strategy: gives C.
      num_steps: n, columns of C.
      participation: at which steps one example can take part.

    Raises:
      ValueError: more steps than C has, or than a dense matrix can be made for.
      TypeError: arguments of the wrong type.

    Guarantee:
      Under neighbours of which one has, in an example's place, one that contributes
      nothing: X is chosen step by step, with all of what was released before in view,
      and still C X + Z is a Gaussian mechanism of this sensitivity (C is
      lower-triangular, and for the tree a block's sum depends on nothing that comes
      after it: Denisov et al., theorem 2.1). For neighbours that differ in any way it
      is twice that. Computed in float64, to about 1e-15 times the number of terms.

    References:
      Choquette-Choo et al. (2023), arXiv 2306.08153, section 4; Kalinin and Lampert
      (2024), arXiv 2405.13763, theorem 2; Denisov, McMahan, Rush, Smith and Thakurta
      (2022), Improved differential privacy for SGD via optimal private linear operators
      on adaptive streams, arXiv 2202.08312.

    >>> from dpjax.noise.correlated import Cyclic, Identity
    >>> sensitivity(Identity(), 8, Cyclic(2))
    Sensitivity(value=2.0, exact=True)
    """
    steps = check_steps(strategy, num_steps)
    if not isinstance(participation, Participation):
        _check.fail("a participation", "participation", participation, TypeError)
    if isinstance(strategy, BinaryTree):
        squared, exact = _of_tree(strategy, steps, participation)
    elif strategy.bands(steps) <= participation.separation(steps):
        squared, exact = (
            participation.best(_column_norms_squared(strategy, steps)),
            True,
        )
    elif (
        isinstance(strategy, ToeplitzStrategy)
        and _falls(strategy.coefficients(steps))
        and not isinstance(participation, OncePerEpoch)
    ):
        squared, exact = _of_first_columns(strategy, steps, participation), True
    else:
        squared, exact = _of_gram(strategy, steps, participation)
    return Sensitivity(float(np.sqrt(squared)), exact)


def separate_sensitivity(strategy: Strategy, num_steps: int, period: int) -> float:
    """Return the L2 sensitivity of each participation by itself: a column's norm.

    Args:
      strategy: of at most `period` bands.
      num_steps: n.
      period: steps between two participations, at least.

    Raises:
      ValueError: more bands, so that participations add up.

    Guarantee:
      Rows of C X that two participations of an example reach are different ones: where
      who takes part is drawn anew for each of them, they compose as steps of DP-SGD do,
      each amplified by its own draw (Choquette-Choo et al. 2023, theorem 4).

    >>> from dpjax.noise.correlated import Toeplitz
    >>> separate_sensitivity(Toeplitz((0.75, 1.0)), 9, period=2)
    1.25
    """
    steps = check_steps(strategy, num_steps)
    if strategy.bands(steps) > _check.integer("period", period, minimum=1):
        what = f"at most {period} bands, the period of the sampling, for amplification"
        _check.fail(what, "strategy.bands", strategy.bands(steps))
    return sensitivity(strategy, steps, ONCE).value


def _column_norms_squared(strategy: Strategy, steps: int) -> np.ndarray:
    if isinstance(strategy, ToeplitzStrategy):
        return np.cumsum(strategy.coefficients(steps) ** 2)[::-1]
    return np.sum(_dense(strategy, steps) ** 2, axis=0)


def _falls(coefficients: np.ndarray) -> bool:
    """Tell whether coefficients are not negative, and none is above one before it."""
    return bool(coefficients[-1] >= 0 and np.all(np.diff(coefficients) <= 0))


def _of_first_columns(
    strategy: ToeplitzStrategy, steps: int, participation: Participation
) -> float:
    column = strategy.coefficients(steps)
    total = np.zeros(steps)
    for i in range(participation.count(steps)):
        start = i * participation.separation(steps)
        total[start:] += column[: steps - start]
    return float(total @ total)


def _of_tree(
    tree: BinaryTree, steps: int, participation: Participation
) -> tuple[float, bool]:
    if isinstance(participation, Cyclic):
        patterns = participation.patterns(np.empty(steps))
        return max(tree.pattern_norm_squared(p, steps) for p in patterns), True
    count, apart = participation.count(steps), participation.separation(steps)
    bound = tree.spread_bound(participation, steps)
    reached = tree.pattern_norm_squared(np.arange(count) * apart, steps)
    allowed = count == 1 or not isinstance(participation, OncePerEpoch)
    return bound, allowed and reached == bound


def _of_gram(
    strategy: Strategy, steps: int, participation: Participation
) -> tuple[float, bool]:
    matrix = _dense(strategy, steps)
    gram = matrix.T @ matrix
    bound, best = participation.best_pairs(np.abs(gram))
    return bound, best and bool(np.all(gram >= 0))


def _dense(strategy: Strategy, steps: int) -> np.ndarray:
    if steps > MOST_DENSE_STEPS:
        what = f"at most {MOST_DENSE_STEPS} steps for a dense {type(strategy).__name__}"
        _check.fail(what, "num_steps", steps)
    return strategy.matrix(steps)
