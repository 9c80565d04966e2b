r"""The privacy loss of a mixture of Gaussians, the worst case of a sampled group.

With shifts c_i of probability p_i, the outputs on two neighbouring data sets have the
laws P = sum_i p_i N(c_i, s^2) and Q = N(0, s^2). It is what `privacy_loss` has for a
single example, with one shift of 1.
"""

import dataclasses
import functools
import math

import dp_accounting
import numpy as np
from scipy import special

from dpjax import _check
from dpjax.accounting.laws.cells import Cells, cell_masses
from dpjax.accounting.laws.privacy_loss import NUM_NODES, LossLaw, Nodes, grid_laws

_TABLE = 4097
_NEWTON_STEPS = 5
_RARE = 1e-6


@dataclasses.dataclass(frozen=True)
class GaussianMixture:
    """The pair (P, Q) of the module's text.

    Args:
      noise: s, noise standard deviation.
      shifts: c_1, ..., c_n, at least 0, not all 0, in the unit of s.
      masses: p_1, ..., p_n, above 0, which sum to 1.
    """

    noise: float
    shifts: tuple[float, ...]
    masses: tuple[float, ...]

    @property
    def symmetric(self) -> bool:
        """Whether adding costs what removing costs."""
        return False

    @property
    def largest_shift(self) -> float:
        """How far the sum may move, in noise deviations."""
        return max(self.shifts) / self.noise

    @property
    def common_shift(self) -> float:
        """The same, but for shifts that are rarer than 1e-6."""
        shifts = zip(self.shifts, self.masses, strict=True)
        return max(c for c, p in shifts if p > _RARE) / self.noise

    @property
    def distance(self) -> float:
        """Total variation distance of P and Q: the delta at epsilon 0."""
        edge = float(self.output(np.zeros(1))[0])
        beyond = [special.ndtr((c - edge) / self.noise) for c in self.shifts]
        return float(np.dot(self.masses, beyond) - special.ndtr(-edge / self.noise))

    def loss(self, x: np.ndarray) -> np.ndarray:
        """Return log P/Q at x in nats, elementwise."""
        exponents = self._exponents(x)
        masses = np.array(self.masses)[:, None]
        change = (masses * np.expm1(np.minimum(exponents, 1.0))).sum(axis=0)
        far = special.logsumexp(exponents + np.log(masses), axis=0)
        small = (exponents.max(axis=0) < 1) & (change > -0.5)
        return np.where(small, np.log1p(np.maximum(change, -0.5)), far)

    def output(self, loss: np.ndarray) -> np.ndarray:
        """Return the x with that loss, elementwise; -inf below the least loss."""
        x_table, loss_table = self._table
        x = np.interp(loss, loss_table, x_table)
        for _ in range(_NEWTON_STEPS):
            # The loss is convex, and grows by the mean shift of what was drawn.
            weights = special.softmax(
                self._exponents(x) + np.log(np.array(self.masses)[:, None]), axis=0
            )
            slope = np.array(self.shifts) @ weights / self.noise**2
            x = x + (loss - self.loss(x)) / np.maximum(slope, 1e-300)
            x = np.clip(x, 2 * x_table[0], 2 * x_table[-1])
        zero = [p for c, p in zip(self.shifts, self.masses, strict=True) if c == 0]
        least = math.log(math.fsum(zero)) if zero else -math.inf
        return np.where(loss > least, x, -np.inf)

    def range(self, tail: float) -> tuple[float, float]:
        """Return outputs with mass at most `tail` of P above, and of Q below, them."""
        share = tail / len(self.masses)
        tops = [
            c - self.noise * special.ndtri(min(0.5, share / p))
            for c, p in zip(self.shifts, self.masses, strict=True)
            if p > share
        ]
        return float(self.noise * special.ndtri(tail / 2)), float(max(tops))

    def nodes(self, tail: float) -> tuple[Nodes, Nodes]:
        """Return quadrature rules of the loss when one is removed, and added."""
        common, _ = self.common(tail)
        x = np.linspace(*common.range(tail), NUM_NODES)
        losses = common.loss(x)
        log_density = losses - 0.5 * (x / self.noise) ** 2
        removed = Nodes(losses, log_density - special.logsumexp(log_density))
        return removed, Nodes(-losses, removed.log_weights - losses)

    def cells(self, edges: np.ndarray) -> Cells:
        """Return the masses of P and Q between outputs, and P's less Q's."""
        lower = cell_masses(edges / self.noise)
        upper, excess = np.zeros_like(lower), np.zeros_like(lower)
        for shift, mass in zip(self.shifts, self.masses, strict=True):
            shifted = cell_masses((edges - shift) / self.noise)
            upper += mass * shifted
            excess += mass * (shifted - lower)
        return Cells(upper, lower, excess)

    def common(self, tail: float) -> tuple["GaussianMixture", float]:
        """Return the mixture without its rarest shifts, and these shifts' mass."""
        order = np.argsort(self.masses)[::-1]
        masses = np.array(self.masses)[order]
        rest = np.append(np.cumsum(masses[::-1])[::-1], 0.0)
        count = int(np.argmax(rest <= tail))
        kept = np.sort(order[:count])
        if count == order.size or not any(self.shifts[i] for i in kept):
            return self, 0.0
        shifts = tuple(self.shifts[i] for i in kept)
        scaled = tuple(self.masses[i] / (1 - rest[count]) for i in kept)
        return GaussianMixture(self.noise, shifts, scaled), float(rest[count])

    def grid_laws(self, interval: float, tail: float) -> tuple[LossLaw, LossLaw]:
        """Return the laws of the loss when one is removed and added, on a grid.

        The rarest shifts count as an infinite loss: half of what `tail` allows.
        """
        common, rare = self.common(tail / 2)
        removed, added = grid_laws(common, interval, tail / 2)
        return _rarer(removed, rare), _rarer(added, rare)

    def _exponents(self, x: np.ndarray) -> np.ndarray:
        """Return the losses of the single shifts: (shifts, x)."""
        shifts = np.array(self.shifts)[:, None]
        return shifts * (x - shifts / 2) / self.noise**2

    @functools.cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Outputs far into both tails, and their losses."""
        x = np.linspace(*self.range(1e-300), _TABLE)
        return x, self.loss(x)


def _rarer(law: LossLaw, rare: float) -> LossLaw:
    """Return the law of what is released but for a rare infinite loss."""
    infinity = rare + (1 - rare) * law.infinity
    return LossLaw(law.lowest, (1 - rare) * law.masses, infinity)


def from_event(event: dp_accounting.DpEvent) -> GaussianMixture:
    """Return the laws of a `MixtureOfGaussiansDpEvent`.

    Raises:
      ValueError: shifts and probabilities do not fit, or the noise is not positive.
    """
    noise = _check.positive("standard_deviation", event.standard_deviation)
    shifts = tuple(float(shift) for shift in event.sensitivities)
    masses = tuple(float(mass) for mass in event.sampling_probs)
    fits = len(shifts) == len(masses) and abs(math.fsum(masses) - 1) < 1e-12
    if not (fits and min(masses) >= 0 and min(shifts) >= 0 and max(shifts) > 0):
        what = "shifts >= 0, not all 0, with probabilities that sum to 1"
        _check.fail(what, "event", event)
    kept = [(c, p) for c, p in zip(shifts, masses, strict=True) if p > 0]
    return GaussianMixture(noise, tuple(c for c, _ in kept), tuple(p for _, p in kept))
