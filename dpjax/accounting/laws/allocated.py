r"""The privacy loss of a Gaussian release in one random step of many.

An example takes part in one of T steps, any as likely as another. Whatever the steps
adapt to, the worst case is the pair

    P = (1/T) sum_t N(e_t, s^2 I),   Q = N(0, s^2 I)

in T dimensions: noise of standard deviation s that is split among an example's
direction and all others can be made of this pair's, which the outputs then follow from.
Under Q, the likelihood ratio is a mean of T independent lognormal variables,

    M = (1/T) sum_t Y_t,   log Y_t ~ N(-1/(2 s^2), 1/s^2)

and its law (`sums`) is all that both directions ask for. An example in k of t steps
costs no more than one that is in one of floor(t / k) steps, k times: choose k groups of
that many steps at random, and a step of each; to reveal the groups only costs more.

References:
  Chua et al. (2025), Balls-and-Bins sampling for DP-SGD, arXiv 2412.16802; Feldman and
  Shenfeld (2025), Privacy amplification by random allocation, arXiv 2502.08202.
"""

import dataclasses
import functools
import math

import numpy as np
from scipy import special

from dpjax.accounting.laws import sums
from dpjax.accounting.laws.cells import cell_masses
from dpjax.accounting.laws.privacy_loss import LossLaw, Nodes

_LEAST_TAIL = 1e-280
_LARGEST_EXPONENT = 700.0


@dataclasses.dataclass(frozen=True)
class AllocatedGaussian:
    """The pair (P, Q) of the module's text: what a grid asks of it.

    Args:
      noise_multiplier: s, noise standard deviation in clip norms, above 0.
      num_steps: T, at least 1.
      points: of the grid of a sum; the excess of a bound falls with its square.
    """

    noise_multiplier: float
    num_steps: int
    points: int = 2000

    @property
    def symmetric(self) -> bool:
        """Whether adding costs what removing costs."""
        return self.num_steps == 1

    @property
    def distance(self) -> float:
        """Total variation distance of P and Q, from above: the delta at epsilon 0.

        It is at most that of one step, and half of the root of Pearson's divergence.
        """
        one_step = special.erf(1 / (self.noise_multiplier * math.sqrt(8)))
        precision = min(self.noise_multiplier**-2, _LARGEST_EXPONENT)
        pearson = math.expm1(precision) / self.num_steps
        return min(float(one_step), 0.5 * math.sqrt(pearson))

    @property
    def coarser(self) -> "AllocatedGaussian":
        """The same pair, half as accurate: what tells of the error."""
        return dataclasses.replace(self, points=self.points // 2)

    def nodes(self, tail: float) -> tuple[Nodes, Nodes]:
        """Return quadrature rules of the loss when one is removed, and added."""
        ratio = self._ratio(tail)
        kept = ratio.masses > 0
        losses = (ratio.logs - math.log(self.num_steps))[kept]
        log_masses = np.log(ratio.masses[kept])
        return Nodes(losses, log_masses + losses), Nodes(-losses, log_masses)

    def grid_laws(self, interval: float, tail: float) -> tuple[LossLaw, LossLaw]:
        """Return the laws of the loss when one is removed and added, on a grid.

        Guarantee: that of `privacy_loss.grid_laws`.
        """
        ratio = self._ratio(tail)
        places = (ratio.logs - math.log(self.num_steps)) / interval
        low, high = math.floor(places[0]), math.floor(places[-1]) + 1
        cells = np.floor(places)
        share = np.expm1(interval * (places - cells)) / math.expm1(interval)
        cells = (cells - low).astype(int)
        size = high - low + 1
        masses = np.bincount(cells, ratio.masses * (1 - share), size)
        masses += np.bincount(cells + 1, ratio.masses * share, size)
        upper = masses * np.exp(interval * np.arange(low, high + 1))
        return (
            LossLaw(low, upper, ratio.beyond / self.num_steps),
            LossLaw(-high, masses[::-1], ratio.zero),
        )

    def _ratio(self, tail: float) -> sums.PositiveLaw:
        return _sum(self, max(tail, _LEAST_TAIL))


@functools.lru_cache(maxsize=16)
def _sum(pair: AllocatedGaussian, tail: float) -> sums.PositiveLaw:
    """Return the law of sum_t Y_t, from above."""
    # Each number of the sum, and each sum on the way, may lose as much.
    share = tail / (4 + 4 * math.log2(pair.num_steps))
    single = _lognormal(pair.noise_multiplier, share, pair.points)
    return sums.repeated(single, pair.num_steps, share, pair.points)


def _lognormal(noise: float, tail: float, points: int) -> sums.PositiveLaw:
    """Return the law of Y_t, from above."""
    reach = -float(special.ndtri(tail)) * noise
    interval = (2 * reach + 1) / noise**2 / points
    lowest = math.floor((-reach - 0.5) / noise**2 / interval)
    logs = interval * np.arange(lowest, lowest + points + 2)
    x = np.concatenate([[-np.inf], noise**2 * logs + 0.5, [np.inf]])
    plain, tilted = cell_masses(x / noise), cell_masses((x - 1) / noise)
    # A cell's mass q and mean p go to its ends a < b: (p - a q) / (b - a) goes to b.
    mass, mean = plain[1:-1], tilted[1:-1] * np.exp(-logs[:-1])
    upper = np.clip((mean - mass) / math.expm1(interval), 0.0, mass)
    masses = np.append(mass - upper, 0.0) + np.append(0.0, upper)
    low = tilted[0] * math.exp(-logs[0])
    masses[0] += low
    zero = plain[0] - low + plain[-1]
    return sums.PositiveLaw(lowest, interval, masses, max(zero, 0.0), tilted[-1])
