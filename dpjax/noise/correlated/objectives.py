"""What strategies are optimised for, with gradients: NumPy, float64."""

from collections.abc import Callable

import numpy as np
from scipy import linalg, optimize

from dpjax import _check
from dpjax.noise.correlated import series
from dpjax.noise.correlated.errors import max_error, rmse
from dpjax.noise.correlated.participation import Participation

Loss = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""From parameters to a loss and its gradient."""


def toeplitz_loss(
    num_steps: int,
    participation: Participation,
    workload: np.ndarray,
    error: Callable[..., float],
) -> Loss:
    """Return twice the log of an error of a Toeplitz strategy, as of its coefficients.

    The coefficients, (num_steps,), are to be >= 0 and not to increase, or to be zero
    from the separation on: the columns 0, b, 2b, ... are those that count then.

    With b = a / c the product is B, whose weighted squared norm has the derivative
    -2 sum_i w_i b_i (b / c)_(i - j) for c_j.

    Args:
      num_steps: n.
      participation: whose separation and count matter.
      workload: (n,), a.
      error: `rmse` or `max_error`.
    """
    weights = _weights(error, num_steps)
    shifts = participation.separation(num_steps) * np.arange(
        participation.count(num_steps)
    )

    def loss(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        noise = series.inverse(coefficients, num_steps)
        factor = series.product(workload, noise, num_steps)
        moved = np.zeros(num_steps)
        for shift in shifts:
            moved[shift:] += coefficients[: num_steps - shift]
        variance, squared = np.sum(weights * factor**2), np.sum(moved**2)
        further = series.product(factor, noise, num_steps)
        pulled = series.product((weights * factor)[::-1], further, num_steps)[::-1]
        gradient = -2 * pulled / variance
        for shift in shifts:
            gradient[: num_steps - shift] += 2 * moved[shift:] / squared
        return float(np.log(variance) + np.log(squared)), gradient

    return loss


def banded_loss(num_steps: int, bands: int, workload: np.ndarray) -> Loss:
    """Return the log of the mean squared error of a banded strategy.

    Its parameters are what is below the diagonal in each column, before columns are
    brought to norm one: (num_steps * (bands - 1),). Time goes with num_steps^3.
    """
    product = series.lower_triangular(workload)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        columns = normalised(parameters, num_steps, bands)
        matrix = from_columns(columns)
        inverse = linalg.solve_triangular(matrix, np.eye(num_steps), lower=True)
        factor = product @ inverse
        variance = np.sum(factor**2)
        dense = -2 * (factor.T @ factor) @ inverse.T / variance
        gradient = np.stack(
            [np.pad(np.diagonal(dense, -lag), (0, lag)) for lag in range(bands)],
            axis=1,
        )
        # Along the column, its norm is fixed; its first entry is one over its length.
        gradient -= columns * np.sum(columns * gradient, axis=1, keepdims=True)
        gradient *= columns[:, :1]
        return float(np.log(variance)), gradient[:, 1:].ravel()

    return loss


def normalised(parameters: np.ndarray, num_steps: int, bands: int) -> np.ndarray:
    """Return columns of norm one, from the diagonal down: (num_steps, bands)."""
    below = np.reshape(parameters, (num_steps, bands - 1))
    columns = np.concatenate([np.ones((num_steps, 1)), below], axis=1)
    rows = np.add.outer(np.arange(num_steps), np.arange(bands))
    columns = np.where(rows < num_steps, columns, 0)
    return columns / np.linalg.norm(columns, axis=1, keepdims=True)


def from_columns(columns: np.ndarray) -> np.ndarray:
    """Return the lower-triangular matrix whose columns are given from the diagonal."""
    steps = len(columns)
    matrix = np.zeros((steps, steps))
    for lag, diagonal in enumerate(columns.T):
        matrix += np.diag(diagonal[: steps - lag], -lag)
    return matrix


def minimised(
    loss: Loss,
    start: np.ndarray,
    bounds: tuple[float | None, float | None] = (None, None),
    max_iterations: int = 1000,
) -> np.ndarray:
    """Return what L-BFGS-B makes of a start, within bounds."""
    if not start.size:
        return start
    found = optimize.minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[bounds] * len(start),
        options={"maxiter": max_iterations, "ftol": 1e-12, "gtol": 1e-9},
    )
    return np.asarray(found.x)


def _weights(error: Callable[..., float], num_steps: int) -> np.ndarray:
    """Return how often each coefficient of B counts in an error: (num_steps,)."""
    if error is max_error:
        return np.ones(num_steps)
    if error is rmse:
        return 1 - np.arange(num_steps) / num_steps
    return _check.fail("rmse or max_error", "error", error)
