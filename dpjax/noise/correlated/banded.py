"""Banded strategies: other weights at every step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check
from dpjax.noise.correlated import rings
from dpjax.noise.correlated.strategy import Draw, Strategy, numbers, zeros
from dpjax.types import ArrayTree


@dataclasses.dataclass(frozen=True)
class Banded(Strategy):
    """C is lower-triangular with few diagonals, for a fixed number of steps.

    As `Toeplitz`, with weights that depend on the step. Columns that are b or more
    apart are orthogonal where there are at most b bands: participations as far apart do
    not add up, and sampling amplifies.

    Attributes:
      columns: for each step its column of C from the diagonal down: (steps, bands)
        numbers, rounded to float32. Diagonals are above zero; what would be below the
        last row is zero.

    References:
      Choquette-Choo et al. (2023), (Amplified) banded matrix factorization: a unified
      approach to private training, arXiv 2306.08153.

    >>> Banded(((1.0, 0.5), (1.0, 0.25), (2.0, 0.0))).matrix(3)
    array([[1.  , 0.  , 0.  ],
           [0.5 , 1.  , 0.  ],
           [0.  , 0.25, 2.  ]])
    """

    columns: tuple[tuple[float, ...], ...] = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        array = _checked(self.columns)
        object.__setattr__(self, "columns", tuple(map(tuple, array.tolist())))

    def __repr__(self) -> str:
        return f"Banded(<{self.max_steps} columns of {len(self.columns[0])}>)"

    @property
    def max_steps(self) -> int:
        """The number of columns."""
        return len(self.columns)

    def bands(self, num_steps: int) -> int:
        """Return the number of diagonals, or of steps where that is less."""
        return min(num_steps, len(self.columns[0]))

    def matrix(self, num_steps: int) -> np.ndarray:
        """Return C, (num_steps, num_steps) float64."""
        matrix = np.zeros((num_steps, num_steps))
        for lag, diagonal in enumerate(np.array(self.columns).T[:num_steps]):
            matrix += np.diag(diagonal[: num_steps - lag], -lag)
        return matrix

    def init_buffers(self, rows: ArrayTree, num_steps: int) -> ArrayTree:
        """Return room for the noise of bands - 1 steps."""
        del num_steps
        return zeros(rows, len(self.columns[0]) - 1)

    def next_noise(
        self, draw: Draw, step: jax.Array, buffers: ArrayTree
    ) -> tuple[ArrayTree, ArrayTree]:
        """Return row `step` of the inverse of C, times Z."""
        weights = jnp.asarray(_rows(np.array(self.columns)), jnp.float32)
        weights = weights[jnp.minimum(step, np.uint32(self.max_steps - 1))]
        row = rings.minus_past(draw(step), weights[1:], step, buffers)
        row = jax.tree.map(lambda leaf: leaf / weights[0].astype(leaf.dtype), row)
        return row, rings.pushed(row, step, buffers) if len(weights) > 1 else buffers


def _checked(columns: Any) -> np.ndarray:
    array = np.array(columns, np.float64)
    if array.ndim != 2 or not 1 <= array.shape[1] <= array.shape[0]:
        _check.fail(
            "(steps, bands) numbers, no more bands than steps", "columns", array
        )
    count, bands = array.shape
    held = np.array(numbers("columns", array.ravel())).reshape(count, bands)
    if not np.all(held[:, 0] > 0):
        _check.fail("diagonals above zero", "columns", held[:, 0])
    rows = np.add.outer(np.arange(count), np.arange(bands))
    if held[rows >= count].any():
        _check.fail("zeros below the last row", "columns", held)
    return held


def _rows(columns: np.ndarray) -> np.ndarray:
    """Return row t of C from its diagonal to the left, (steps, bands)."""
    rows = np.zeros_like(columns)
    for lag in range(columns.shape[1]):
        rows[lag:, lag] = columns[: len(columns) - lag, lag]
    return rows
