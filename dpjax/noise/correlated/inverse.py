"""Strategies whose inverse has few bands: noise is a mix of the last few draws."""

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
class BandedInverse(ToeplitzStrategy):
    """C is Toeplitz, and it is its inverse M that has few diagonals.

    Noise of a step is m_0 z + m_1 z_1 + m_2 z_2 + ..., with z_1, z_2, ... the draws of
    the steps before: as many of them as there are coefficients, less one, are kept. C
    itself has all its diagonals, so that nothing is amplified by sampling.

    Attributes:
      inverse_coefficients: m_0, m_1, ..., the first column of M; m_0 > 0. Rounded to
        float32.

    References:
      Kalinin, McKenna, Upadhyay and Lampert (2025), Back to square roots: an optimal
      bound on the matrix factorization error for multi-epoch differentially private
      SGD, arXiv 2505.12128.

    >>> BandedInverse((1.0, -0.5)).coefficients(4)
    array([1.   , 0.5  , 0.25 , 0.125])
    """

    inverse_coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        held = numbers("inverse_coefficients", self.inverse_coefficients)
        if not held or held[0] <= 0:
            _check.fail("m_0 > 0", "inverse_coefficients", held[:1])
        object.__setattr__(self, "inverse_coefficients", held)

    def bands(self, num_steps: int) -> int:
        """Return 1 for a diagonal C, else all."""
        return num_steps if any(self.inverse_coefficients[1:]) else 1

    def coefficients(self, num_steps: int) -> np.ndarray:
        """Return the first column of C, (num_steps,)."""
        return series.divided(np.array(self.inverse_coefficients), num_steps)

    def noise_coefficients(self, num_steps: int) -> np.ndarray:
        """Return the coefficients, zeros after them: (num_steps,)."""
        return series.padded(np.array(self.inverse_coefficients), num_steps)

    def init_buffers(self, rows: ArrayTree, num_steps: int) -> ArrayTree:
        """Return room for the draws of bands - 1 steps."""
        del num_steps
        return zeros(rows, len(self.inverse_coefficients) - 1)

    def next_noise(
        self, draw: Draw, step: jax.Array, buffers: ArrayTree
    ) -> tuple[ArrayTree, ArrayTree]:
        """Return row `step` of M Z."""
        first, *rest = self.inverse_coefficients
        drawn = draw(step)
        own = jax.tree.map(lambda leaf: first * leaf, drawn)
        row = rings.minus_past(own, -jnp.array(rest), step, buffers)
        if not rest:
            return row, buffers
        # Step 2**32 - 1 is never reached, but XLA does not know it: it must read the
        # ring before it writes, and need not copy all of it (seven times the time).
        never = step == np.uint32(2**32 - 1)
        kept = jax.tree.map(lambda a, b: jnp.where(never, a, b), row, drawn)
        return row, rings.pushed(kept, step, buffers)


def banded_inverse_square_root(
    bands: int, *, momentum: float = 0.0, weight_decay: float = 0.0
) -> BandedInverse:
    """Return the inverse square root of a workload, cut off after some bands.

    For prefix sums the coefficients of M are 1, -1/2, -1/8, -1/16, ... Its error is the
    best there is up to a constant where examples come several times, with about as many
    bands as lie between two participations.

    Args:
      bands: number of coefficients of M, >= 1.
      momentum: as in `workload`.
      weight_decay: as in `workload`.

    References:
      Kalinin, McKenna, Upadhyay and Lampert (2025), arXiv 2505.12128, theorem 2.

    >>> banded_inverse_square_root(4).inverse_coefficients
    (1.0, -0.5, -0.125, -0.0625)
    """
    column = workloads.root(bands, momentum=momentum, weight_decay=weight_decay)
    return BandedInverse(tuple(series.inverse(column, bands).tolist()))
