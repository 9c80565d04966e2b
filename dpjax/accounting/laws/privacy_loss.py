r"""The privacy loss of one Poisson-sampled Gaussian release, and its law on a grid.

With noise multiplier s and sampling probability q, the outputs on two neighbouring data
sets have, in the worst case and along the one direction that matters, the laws

    P = (1 - q) N(0, s^2) + q N(1, s^2)
    Q = N(0, s^2)                            add or remove one, zero out one
    Q = (1 - q) N(0, s^2) + q N(-1, s^2)     replace one

An output x has the privacy loss L(x) = log P(x)/Q(x), which grows with x. What matters
is the law of L(x) for x drawn from P ("remove"), and of -L(x) for x from Q ("add").
"""

import dataclasses
import math
from typing import NamedTuple, Protocol

import numpy as np
from scipy import special

from dpjax.accounting.laws.cells import Cells, cell_masses

NUM_NODES = 501
_LARGEST_EXPONENT = 700.0


class LossLaw(NamedTuple):
    """The law of a privacy loss on the multiples of an interval.

    Attributes:
      lowest: the smallest loss, in intervals.
      masses: (n,) probabilities of the losses lowest, ..., lowest + n - 1 intervals.
      infinity: probability of an infinite loss.
    """

    lowest: int
    masses: np.ndarray
    infinity: float


class Nodes(NamedTuple):
    """A quadrature rule of the exact law of a privacy loss: (501,) each.

    Attributes:
      losses: in nats.
      log_weights: logarithms of the weights, which sum to 1.
    """

    losses: np.ndarray
    log_weights: np.ndarray


class OutputLaws(Protocol):
    """A pair (P, Q) whose loss grows with the output: what a grid asks of it."""

    @property
    def symmetric(self) -> bool:
        """Whether adding costs what removing costs."""

    @property
    def distance(self) -> float:
        """Total variation distance of P and Q: the delta at epsilon 0."""

    def loss(self, x: np.ndarray) -> np.ndarray:
        """Return log P/Q at x in nats, elementwise."""

    def output(self, loss: np.ndarray) -> np.ndarray:
        """Return the x with that loss, elementwise; -inf below the least loss."""

    def range(self, tail: float) -> tuple[float, float]:
        """Return outputs with mass at most `tail` of P above, and of Q below, them."""

    def nodes(self, tail: float) -> tuple[Nodes, Nodes]:
        """Return quadrature rules of the loss when one is removed, and added."""

    def cells(self, edges: np.ndarray) -> Cells:
        """Return the masses of P and Q between outputs, and P's less Q's."""


@dataclasses.dataclass(frozen=True)
class SampledGaussian:
    """The pair (P, Q) of the module's text.

    Args:
      noise_multiplier: s, noise standard deviation in clip norms, above 0.
      sampling_prob: q, in (0, 1].
      replace_one: the neighbour has another example instead of none.
    """

    noise_multiplier: float
    sampling_prob: float
    replace_one: bool = False

    @property
    def symmetric(self) -> bool:
        """Whether adding costs what removing costs."""
        return self.replace_one or self.sampling_prob == 1

    @property
    def shift(self) -> float:
        """How far the sum moves when the example is sampled, in noise deviations."""
        return (2 if self.replace_one else 1) / self.noise_multiplier

    @property
    def distance(self) -> float:
        """Total variation distance of P and Q: the delta at epsilon 0."""
        return self.sampling_prob * float(special.erf(self.shift / math.sqrt(8)))

    def loss(self, x: np.ndarray) -> np.ndarray:
        """Return L(x) in nats, elementwise."""
        variance = self.noise_multiplier**2
        gain = self.log_mixture((x - 0.5) / variance)
        if not self.replace_one:
            return gain
        return gain - self.log_mixture((-x - 0.5) / variance)

    def output(self, loss: np.ndarray) -> np.ndarray:
        """Return the x with L(x) = loss, elementwise; -inf below the least loss."""
        variance, q = self.noise_multiplier**2, self.sampling_prob
        if self.replace_one:
            return variance * (loss / 2 + self._half_replace_output(loss))
        if q == 1:
            return variance * loss + 0.5
        with np.errstate(divide="ignore"):
            near = np.log1p(np.maximum(np.expm1(np.minimum(loss, 1.0)) / q, -1.0))
        far = loss - math.log(q) + np.log1p((q - 1) * np.exp(-np.maximum(loss, 1.0)))
        return variance * np.where(loss < 1, near, far) + 0.5

    def range(self, tail: float) -> tuple[float, float]:
        """Return outputs with mass at most `tail` of P above, and of Q below, them."""
        s, q = self.noise_multiplier, self.sampling_prob
        unsampled = -s * special.ndtri(tail / 2)
        sampled = 1 - s * special.ndtri(min(0.5, tail / (2 * q)))
        high = max(unsampled, sampled)
        return (-high if self.replace_one else -unsampled), high

    def nodes(self, tail: float) -> tuple[Nodes, Nodes]:
        """Return quadrature rules of the loss when one is removed, and added."""
        s, q = self.noise_multiplier, self.sampling_prob
        x = np.linspace(*self.range(tail), NUM_NODES)
        log_density = math.log(q) - 0.5 * ((x - 1) / s) ** 2
        if q < 1:
            unsampled = math.log1p(-q) - 0.5 * (x / s) ** 2
            log_density = np.logaddexp(unsampled, log_density)
        losses = self.loss(x)
        removed = Nodes(losses, log_density - special.logsumexp(log_density))
        return removed, Nodes(-losses, removed.log_weights - losses)

    def cells(self, edges: np.ndarray) -> Cells:
        """Return the masses of P and Q between outputs, and P's less Q's."""
        q, s = self.sampling_prob, self.noise_multiplier
        unsampled, plus = cell_masses(edges / s), cell_masses((edges - 1) / s)
        minus = cell_masses((edges + 1) / s) if self.replace_one else unsampled
        upper = (1 - q) * unsampled + q * plus
        lower = (1 - q) * unsampled + q * minus
        return Cells(upper, lower, q * (plus - minus))

    def log_mixture(self, exponent: np.ndarray) -> np.ndarray:
        """Return log(1 - q + q e^exponent) without loss of digits."""
        q = self.sampling_prob
        if q == 1:
            return exponent
        # The first form keeps the digits of a small logarithm, the second those of a
        # large one and of one that is far below 0.
        near = np.log1p(q * np.expm1(np.clip(exponent, -1.0, 500.0)))
        far = np.logaddexp(math.log1p(-q), math.log(q) + exponent)
        small = (exponent < 500) & ((exponent > -1) | (q < 0.5))
        below = np.log1p(q * np.expm1(np.minimum(exponent, 0.0)))
        return np.where(small, np.where(exponent < 0, below, near), far)

    def _half_replace_output(self, loss: np.ndarray) -> np.ndarray:
        """Return asinh(c sinh(loss / 2)) with c = (1 - q) / q e^(1 / (2 s^2)).

        From y = e^(x / s^2 - loss / 2), which solves y - 1/y = 2 c sinh(loss / 2).
        """
        q = self.sampling_prob
        if q == 1:
            return np.zeros_like(loss)
        half = np.abs(loss) / 2
        log_c = math.log1p(-q) - math.log(q) + 0.5 / self.noise_multiplier**2
        with np.errstate(divide="ignore"):
            log_sinh = half + np.log(-np.expm1(-2 * half) / 2)
        log_value = log_c + log_sinh
        root = np.logaddexp(log_value, 0.5 * np.logaddexp(2 * log_value, 0.0))
        return np.sign(loss) * root


def grid_laws(
    pair: OutputLaws, interval: float, tail: float
) -> tuple[LossLaw, LossLaw]:
    """Return the laws of the loss when one is removed and added, on a grid.

    The mass that falls between two grid points goes to both, so divided that P and Q
    keep their total there ("connect the dots"). The result is itself the loss of a pair
    that is easier to tell apart than (P, Q), exactly as easy at every grid point.

    Args:
      pair: the output laws.
      interval: distance of grid points, in nats.
      tail: mass beyond the grid's ends; it goes to an end and, in part, to infinity.

    Guarantee: compositions of the result have at least the delta of those of `pair`, at
    every epsilon, up to rounding.

    References:
      Doroshenko, Ghazi, Kamath, Kumar and Manurangsi (2022), Connect the dots: tighter
      discrete approximations of privacy loss distributions.
    """
    places, losses, edges = cell_edges(pair, interval, tail)
    masses, beyond, below = connect_the_dots(pair.cells(edges), losses, interval)
    removed = LossLaw(int(places[0]), masses, beyond)
    if pair.symmetric:
        return removed, removed
    turned = (masses * np.exp(-losses))[::-1]
    return removed, LossLaw(-int(places[-1]), turned, below)


def cell_edges(
    pair: OutputLaws, interval: float, tail: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the grid in intervals and in nats, and its outputs between infinities."""
    low, high = pair.loss(np.array(pair.range(tail)))
    places = np.arange(math.floor(low / interval), math.ceil(high / interval) + 1)
    losses = interval * places
    return places, losses, np.concatenate([[-np.inf], pair.output(losses), [np.inf]])


def connect_the_dots(
    cells: Cells,
    losses: np.ndarray,
    interval: float,
    moved: np.ndarray | float = 0.0,
) -> tuple[np.ndarray, float, float]:
    """Return the masses of P, and those of P above and Q below that become infinite.

    Args:
      cells: (n + 1,) masses below, between and above the grid's outputs.
      losses: (n,) in nats.
      interval: their distance.
      moved: (n - 1,) what is added to P - e^loss Q of the cells between.
    """
    upper, lower, difference = cells
    # Of a cell's mass P, the share up moves to its upper end, with Q kept:
    # up (1 - e^-interval) = P - e^loss Q. Small losses would cancel nearly all of it.
    exponents = np.minimum(losses, _LARGEST_EXPONENT)
    small = difference[1:-1] - np.expm1(exponents[:-1]) * lower[1:-1]
    large = upper[1:-1] - np.exp(exponents[:-1]) * lower[1:-1]
    excess = np.where(np.abs(exponents[:-1]) < 0.5, small, large)
    up = (excess + moved) / -math.expm1(-interval)
    up = np.clip(up, 0.0, upper[1:-1])
    top = min(upper[-1], lower[-1] * math.exp(exponents[-1]))
    bottom = upper[0]
    masses = np.append(upper[1:-1] - up, top)
    masses[1:] += up
    masses[0] += bottom
    below = lower[0] - bottom * math.exp(min(-losses[0], _LARGEST_EXPONENT))
    return masses, upper[-1] - top, max(0.0, below)
