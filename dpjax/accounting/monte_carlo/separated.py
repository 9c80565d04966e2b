"""The pair of output laws of b-min-sep sampling."""

import collections
import dataclasses
import math

import numpy as np

from dpjax import _check


@dataclasses.dataclass(frozen=True)
class Separated:
    """An example that rests for b - 1 steps after each of its own: `sampling.BMinSep`.

    Where it does not rest, it is in a step with probability p, independently. It starts
    as the stationary law has it. Noise is independent between steps.

    Args:
      noise_multiplier: s, above 0.
      sampling_prob: p, in (0, 1): `BMinSep.sampling_prob`.
      min_separation: b, at least 1.
      num_steps: n, at least 1.

    References:
      "Privacy amplification for BandMF via b-min-sep subsampling", arXiv 2602.09338.
    """

    noise_multiplier: float
    sampling_prob: float
    min_separation: int
    num_steps: int

    def __post_init__(self) -> None:
        _check.positive("noise_multiplier", self.noise_multiplier)
        _check.open_unit("sampling_prob", self.sampling_prob)
        _check.integer("min_separation", self.min_separation, minimum=1)
        _check.integer("num_steps", self.num_steps, minimum=1)

    def log_ratios(
        self, source: np.random.Generator, count: int, with_example: bool
    ) -> np.ndarray:
        """Return log dP/dQ: see `Pair`.

        With f_t the ratio's part in which the example is free at step t, and g_t that
        in which it is in it, g_t = p Y_t f_t and f_t+1 = (1 - p) f_t + g_t+1-b.
        """
        p, rest = self.sampling_prob, self.min_separation - 1
        share = p / (1 + rest * p)
        free = np.full(count, math.log1p(-rest * share))
        resting = collections.deque([np.full(count, math.log(share))] * rest)
        due = self._first_free(source, count, share)
        for step in range(self.num_steps):
            x = self.noise_multiplier * source.standard_normal(count)
            if with_example:
                taken = (due <= step) & (source.random(count) < p)
                due[taken] = step + self.min_separation
                x += taken
            log_ratio = (x - 0.5) / self.noise_multiplier**2
            resting.append(math.log(p) + log_ratio + free)
            free = np.logaddexp(math.log1p(-p) + free, resting.popleft())
        return np.logaddexp.reduce([free, *resting])

    def _first_free(
        self, source: np.random.Generator, count: int, share: float
    ) -> np.ndarray:
        """Return the first step at which an example does not rest: (count,)."""
        rest = self.min_separation - 1
        place = source.random(count) / share
        # One of the intervals (0, 1), ..., (rest - 1, rest) for each step of the rest.
        return np.where(place < rest, 1 + np.floor(place), 0)
