"""What is estimated: linear functions of the private sums of all steps so far.

A workload A is a lower-triangular Toeplitz matrix, given by its first column. With
plain SGD the parameters after step t are the start less the learning rate times the sum
of the first t + 1 gradients: prefix sums, a column of ones.
"""

import numpy as np

from dpjax import _check
from dpjax.noise.correlated import series


def workload(
    num_steps: int, *, momentum: float = 0.0, weight_decay: float = 0.0
) -> np.ndarray:
    """Return the first column of the workload of SGD.

    One step is m <- momentum m + g, then x <- (1 - weight_decay) x - m, the learning
    rate aside: the series is 1 / ((1 - (1 - weight_decay) z)(1 - momentum z)).

    Args:
      num_steps: n >= 1.
      momentum: in [0, 1).
      weight_decay: in [0, 1): what a step takes off the parameters, learning rate times
        decay.

    Returns:
      (n,) float64: how the gradient of a step weighs in the parameters 0, 1, ... steps
      later.

    Raises:
      ValueError: an argument out of range.

    References:
      Kalinin and Lampert (2024), Banded square root matrix factorization for
      differentially private model training, section 2, arXiv 2405.13763.

    >>> workload(4)
    array([1., 1., 1., 1.])
    >>> workload(3, momentum=0.5)
    array([1.  , 1.5 , 1.75])
    """
    steps = _check.integer("num_steps", num_steps, minimum=1)
    kept = 1 - fraction("weight_decay", weight_decay)
    remembered = series.powers(fraction("momentum", momentum), steps)
    return series.product(series.powers(kept, steps), remembered, steps)


def root(
    num_steps: int, *, momentum: float = 0.0, weight_decay: float = 0.0
) -> np.ndarray:
    """Return the first column of the square root of the matrix of `workload`.

    >>> root(4)
    array([1.    , 0.5   , 0.375 , 0.3125])
    """
    steps = _check.integer("num_steps", num_steps, minimum=1)
    kept = 1 - fraction("weight_decay", weight_decay)
    remembered = series.inverse_root(fraction("momentum", momentum), steps)
    return series.product(series.inverse_root(kept, steps), remembered, steps)


def checked(column: np.ndarray | None, num_steps: int) -> np.ndarray:
    """Return the first column of a workload, of ones where None is given."""
    if column is None:
        return np.ones(num_steps)
    values = np.asarray(column, np.float64)
    if values.shape != (num_steps,):
        _check.fail(f"a workload of shape ({num_steps},)", "shape", values.shape)
    if not np.all(np.isfinite(values)) or not values.any():
        _check.fail("a finite workload that is not zero", "workload", column)
    return values


def fraction(name: str, value: float) -> float:
    """Return a number in [0, 1)."""
    number = _check.non_negative(name, value)
    if number >= 1:
        _check.fail("a number in [0, 1)", name, value)
    return number
