"""Buffered Toeplitz strategies: many bands for the memory of a few."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check
from dpjax.noise.correlated.strategy import (
    Draw,
    ToeplitzStrategy,
    numbers,
    weighted,
    zeros,
)
from dpjax.types import ArrayTree


@dataclasses.dataclass(frozen=True)
class BufferedToeplitz(ToeplitzStrategy):
    """C is Toeplitz with c_0 = 1 and c_i = sum_j scales[j] decays[j]^(i - 1).

    Each pair needs one buffer of the size of a row, whatever the number of steps: noise
    of a step is y = z - sum_j scales[j] s_j, after which s_j <- decays[j] s_j + y.

    Attributes:
      decays: in [0, 1), rounded to float32; 1 - decay is about one over the number of
        steps that a buffer remembers.
      scales: as many; rounded to float32.

    References:
      Dvijotham, McMahan, Pillutla, Steinke and Thakurta (2024), Efficient and
      near-optimal noise generation for streaming differential privacy, arXiv
      2404.16706; McMahan, Xu and Zhang (2024), A hassle-free algorithm for private
      learning in practice, arXiv 2408.08868.

    >>> BufferedToeplitz(decays=(0.5,), scales=(0.25,)).coefficients(4)
    array([1.    , 0.25  , 0.125 , 0.0625])
    """

    decays: tuple[float, ...]
    scales: tuple[float, ...]

    def __post_init__(self) -> None:
        decays, scales = numbers("decays", self.decays), numbers("scales", self.scales)
        if len(decays) != len(scales):
            _check.fail(f"{len(decays)} scales", "scales", self.scales)
        if not all(0 <= decay < 1 for decay in decays):
            _check.fail("numbers that float32 holds in [0, 1)", "decays", self.decays)
        object.__setattr__(self, "decays", decays)
        object.__setattr__(self, "scales", scales)

    def bands(self, num_steps: int) -> int:
        """Return 1 without buffers, else all."""
        return num_steps if any(self.scales) else 1

    def coefficients(self, num_steps: int) -> np.ndarray:
        """Return the first column of C, (num_steps,)."""
        column = np.eye(1, num_steps)[0]
        lags = np.arange(num_steps - 1)
        for decay, scale in zip(self.decays, self.scales, strict=True):
            column[1:] += scale * np.power(decay, lags)
        return column

    def init_buffers(self, rows: ArrayTree, num_steps: int) -> ArrayTree:
        """Return one buffer for each decay."""
        del num_steps
        return zeros(rows, len(self.decays))

    def next_noise(
        self, draw: Draw, step: jax.Array, buffers: ArrayTree
    ) -> tuple[ArrayTree, ArrayTree]:
        """Return row `step` of the inverse of C, times Z."""
        drawn = draw(step)
        if not self.decays:
            return drawn, buffers
        row = jax.tree.map(jnp.subtract, drawn, weighted(self.scales, buffers))

        def decayed(buffer: jax.Array, value: jax.Array) -> jax.Array:
            column = jnp.array(self.decays, jnp.finfo(buffer.dtype).dtype)
            return column.reshape(-1, *[1] * value.ndim) * buffer + value

        return row, jax.tree.map(decayed, buffers, row)
