"""A grid with discrete Gaussian noise on it: what the host does at every step."""

from typing import Any, NamedTuple

import jax
import numpy as np

from dpjax import _check
from dpjax.noise.discrete import discrete_gaussian_noise, rounded_variance
from dpjax.optimizers.grid import rounded_sensitivity, usual_granularity
from dpjax.types import ArrayTree

_MOST_STEPS = 2.0**52
"""Of the grid to a value of the sum: integers up to there, and noise, are exact."""


class Grid(NamedTuple):
    """A grid, and the noise on it.

    Attributes:
      step: g, a power of two.
      stddev: the noise's standard deviation, in steps.
      rounded: whether what arrives is on the grid already.
    """

    step: float
    stddev: float
    rounded: bool

    @classmethod
    def of(
        cls,
        sensitivity: float,
        noise_multiplier: float,
        granularity: float | None,
        size: int,
        *,
        rounded: bool,
    ) -> "Grid":
        """Return the grid of a sum, and noise for a multiplier of its sensitivity.

        Args:
          sensitivity: of the sum before it is rounded.
          noise_multiplier: at least 0; 0 for no noise.
          granularity: a power of two; None takes the usual one.
          size: number of values.
          rounded: as in the attributes.

        Raises:
          ValueError: a grid on which no such noise can be drawn.

        >>> Grid.of(1.0, 2.0, 2.0**-10, 100, rounded=False).stddev.__round__(2)
        2068.0
        """
        step = granularity or usual_granularity(sensitivity, size)
        moved = 0.5 if rounded else 1.0
        scale = rounded_sensitivity(sensitivity, step, size, moved=moved)
        stddev = noise_multiplier * scale
        try:
            rounded_variance(stddev or 1.0)
        except ValueError:
            what = f"noise of 2**-40 to 2**40 steps (it has {stddev:.3g})"
            _check.fail(what, "granularity", step)
        return cls(step, stddev, rounded)

    def noised(self, words: Any, step: Any, total: ArrayTree) -> ArrayTree:
        """Return a sum on the grid with noise: NumPy arrays of the sum's dtypes.

        Dividing by a power of two, rounding to the nearest integer, sums of integers
        below 2^53 and their products with a power of two are exact in float64 and
        int64; the last rounding, to the sum's dtype, is one of what is released.

        Args:
          words: key data, uint32 (2,).
          step: number of the step.
          total: the sum, real arrays of 64 bits at most. What is beyond 2^52 steps, or
            too large for the sum to be exact where it should be on the grid, is that
            many before the noise: no neighbour is further from it for that. NaN, which
            no clipped sum has, stays NaN; so does what should be on the grid and is
            not.
        """
        total = jax.tree.map(np.asarray, total)
        zero = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.int64), total)
        if not self.stddev:
            return jax.tree.map(self._on_grid, total, zero)
        drawn = discrete_gaussian_noise(np.asarray(words), int(step), zero, self.stddev)
        return jax.tree.map(self._on_grid, total, drawn)

    def _on_grid(self, leaf: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            steps = leaf.astype(np.float64) / self.step
        near = np.rint(steps)
        most, known = _MOST_STEPS, ~np.isnan(steps)
        if self.rounded:
            most = min(most, 2.0 ** (np.finfo(leaf.dtype).nmant + 1))
            known &= (near == steps) | (np.abs(steps) > most)
        kept = np.clip(np.where(known, near, 0.0), -most, most)
        integers = kept.astype(np.int64) + drawn
        return np.where(known, integers * self.step, np.nan).astype(leaf.dtype)
