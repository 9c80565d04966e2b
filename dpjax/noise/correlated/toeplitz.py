"""Toeplitz strategies: the same weights at every step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check
from dpjax.noise.correlated import rings, series, workloads
from dpjax.noise.correlated.strategy import (
    Draw,
    ToeplitzStrategy,
    numbers,
    zeros,
)
from dpjax.types import ArrayTree


@dataclasses.dataclass(frozen=True)
class Toeplitz(ToeplitzStrategy):
    """C is Toeplitz, with as many diagonals as there are coefficients.

    Noise y of a step is (z - c_1 y_1 - c_2 y_2 - ...) / c_0, with y_1, y_2, ... that of
    the steps before: as many rows as there are bands, less one, are remembered. With
    as many bands as steps that is all of them: see `BufferedToeplitz` for less.

    Attributes:
      strategy_coefficients: c_0, c_1, ..., the first column of C; c_0 > 0. Rounded to
        float32.

    References:
      Fichtenberger, Henzinger and Upadhyay (2023), Constant matters, arXiv 2202.11205;
      Choquette-Choo et al. (2023), (Amplified) banded matrix factorization, arXiv
      2306.08153; McKenna (2024), Scaling up the banded matrix factorization mechanism,
      arXiv 2405.15913.

    >>> Toeplitz((1.0, 0.5)).noise_coefficients(4)
    array([ 1.   , -0.5  ,  0.25 , -0.125])
    """

    strategy_coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        held = numbers("strategy_coefficients", self.strategy_coefficients)
        if not held or held[0] <= 0:
            _check.fail("c_0 > 0", "strategy_coefficients", held[:1])
        object.__setattr__(self, "strategy_coefficients", held)

    def bands(self, num_steps: int) -> int:
        """Return the number of coefficients, or of steps where that is less."""
        return min(num_steps, len(self.strategy_coefficients))

    def coefficients(self, num_steps: int) -> np.ndarray:
        """Return the coefficients, zeros after them: (num_steps,)."""
        return series.padded(np.array(self.strategy_coefficients), num_steps)

    def init_buffers(self, rows: ArrayTree, num_steps: int) -> ArrayTree:
        """Return room for the noise of bands - 1 steps."""
        del num_steps
        return zeros(rows, len(self.strategy_coefficients) - 1)

    def next_noise(
        self, draw: Draw, step: jax.Array, buffers: ArrayTree
    ) -> tuple[ArrayTree, ArrayTree]:
        """Return row `step` of the inverse of C, times Z."""
        first, *rest = self.strategy_coefficients
        row = rings.minus_past(draw(step), jnp.array(rest), step, buffers)
        row = jax.tree.map(lambda leaf: leaf / first, row)
        return row, rings.pushed(row, step, buffers) if rest else buffers


def square_root(
    bands: int, *, momentum: float = 0.0, weight_decay: float = 0.0
) -> Toeplitz:
    """Return the square root of a workload, cut off after some bands.

    For prefix sums the coefficients are 1, 1/2, 3/8, 5/16, ...; with as many bands as
    steps n and one participation, the error is within a constant of what any matrix
    reaches: both factors have squared norm 1 + (ln n + 0.58...) / pi at most.

    Args:
      bands: number of coefficients >= 1: of steps, or for several participations not
        more than lie between them.
      momentum: as in `workload`.
      weight_decay: as in `workload`.

    References:
      Fichtenberger, Henzinger and Upadhyay (2023), arXiv 2202.11205, theorem 1;
      Henzinger, Upadhyay and Upadhyay (2023), arXiv 2211.05006; Kalinin and Lampert
      (2024), Banded square root matrix factorization, arXiv 2405.13763.

    >>> square_root(4).strategy_coefficients
    (1.0, 0.5, 0.375, 0.3125)
    """
    column = workloads.root(bands, momentum=momentum, weight_decay=weight_decay)
    return Toeplitz(tuple(column.tolist()))
