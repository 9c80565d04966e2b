"""How far off the sums are: what a strategy is chosen by."""

import numpy as np

from dpjax.noise.correlated.participation import ONCE, Participation
from dpjax.noise.correlated.sensitivity import sensitivity
from dpjax.noise.correlated.strategy import Strategy, error_variances


def rmse(
    strategy: Strategy,
    num_steps: int,
    participation: Participation = ONCE,
    *,
    workload: np.ndarray | None = None,
) -> float:
    """Return the root mean squared error of a workload's rows.

    That is the sensitivity of C times the Frobenius norm of A M over sqrt(n): the error
    of one coordinate of the estimates, in units of the noise multiplier times the clip
    norm, for a mechanism of that noise multiplier over all steps.

    Args:
      strategy: gives C and M.
      num_steps: n.
      participation: at which steps one example can take part.
      workload: (n,), first column of A; None for prefix sums.

    Raises:
      ValueError: more steps than C has, or a workload of another length.

    References:
      Denisov et al. (2022), arXiv 2202.08312, section 3.

    >>> from dpjax.noise.correlated import Identity, square_root
    >>> print(f"{rmse(Identity(), 1000):.2f} {rmse(square_root(1000), 1000):.2f}")
    22.37 3.10
    """
    variances = error_variances(strategy, num_steps, workload)
    scale = sensitivity(strategy, num_steps, participation).value
    return float(scale * np.sqrt(np.mean(variances)))


def max_error(
    strategy: Strategy,
    num_steps: int,
    participation: Participation = ONCE,
    *,
    workload: np.ndarray | None = None,
) -> float:
    """Return the largest standard deviation of a workload's rows: see `rmse`.

    >>> from dpjax.noise.correlated import BinaryTree, Identity
    >>> max_error(Identity(), 1024)
    32.0
    """
    variances = error_variances(strategy, num_steps, workload)
    scale = sensitivity(strategy, num_steps, participation).value
    return float(scale * np.sqrt(np.max(variances)))
