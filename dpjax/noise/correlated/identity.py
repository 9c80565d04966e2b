"""Independent noise: what DP-SGD adds."""

import dataclasses

import jax
import numpy as np

from dpjax.noise.correlated.strategy import Draw, ToeplitzStrategy
from dpjax.types import ArrayTree


@dataclasses.dataclass(frozen=True)
class Identity(ToeplitzStrategy):
    """C = I: independent noise at every step, and nothing to remember.

    The sum over n steps has the noise of n rows: an error of sqrt(n).

    >>> Identity().coefficients(3)
    array([1., 0., 0.])
    """

    def bands(self, num_steps: int) -> int:
        """Return 1: the diagonal."""
        del num_steps
        return 1

    def coefficients(self, num_steps: int) -> np.ndarray:
        """Return 1, 0, 0, ..."""
        return np.eye(1, num_steps)[0]

    def init_buffers(self, rows: ArrayTree, num_steps: int) -> ArrayTree:
        """Return nothing."""
        del rows, num_steps
        return ()

    def next_noise(
        self, draw: Draw, step: jax.Array, buffers: ArrayTree
    ) -> tuple[ArrayTree, ArrayTree]:
        """Return row `step` of Z."""
        return draw(step), buffers
