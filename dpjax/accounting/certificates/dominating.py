"""Laws of a privacy loss on a grid that are larger than the true ones, come what may.

What `privacy_loss.grid_laws` computes is larger up to rounding; here, bounds on all
rounding are added back.
"""

import numpy as np
from scipy import special

from dpjax.accounting.laws.privacy_loss import (
    LossLaw,
    SampledGaussian,
    cell_edges,
    connect_the_dots,
)

_ROUNDING = 2e-13
"""Relative error of the normal distribution function and of a few operations on it."""


def dominating_laws(
    pair: SampledGaussian, interval: float, tail: float
) -> tuple[LossLaw, LossLaw]:
    """Return laws of the loss when one is removed and added, all rounding paid for.

    Masses sum to a little more than 1: the laws are measures whose delta, the sum of
    (1 - e^(epsilon - loss))_+ over them, is at least that of `pair` at every epsilon.

    Args:
      pair: the output laws.
      interval: distance of grid points, in nats.
      tail: mass beyond the grid's ends.

    Guarantee: that of `grid_laws` without "up to rounding", if the normal distribution
    function is good to a relative 1e-13. Every mass is rounded up. Removing, more of a
    cell's mass goes to its upper end than keeps Q: the delta of a unit of P grows with
    its loss. Adding, less: the delta of what a unit of P is under Q falls with it. An
    output at a cell's edge is off by its rounding; the delta of the event above it then
    falls short, in second order, by less than what is added to the cell.
    """
    places, losses, edges = cell_edges(pair, interval, tail)
    cells = pair.cells(edges)
    slack, moved = _roundings(pair, edges, losses)
    masses, beyond, _ = connect_the_dots(cells, losses, interval, moved)
    beyond += 2 * slack[-1]
    removed = LossLaw(int(places[0]), _rounded_up(masses, slack), beyond)
    if pair.symmetric:
        return removed, removed
    masses, _, below = connect_the_dots(cells, losses, interval, -moved)
    turned = (_rounded_up(masses, slack) * np.exp(-losses))[::-1]
    below += slack[0] * (1 + float(np.exp(min(-losses[0], 700.0))))
    return removed, LossLaw(-int(places[-1]), turned * (1 + 1e-12), below)


def _rounded_up(masses: np.ndarray, slack: np.ndarray) -> np.ndarray:
    """Return masses to whose both neighbouring cells the slack is added."""
    return masses + slack[:-1] + slack[1:]


def _roundings(
    pair: SampledGaussian, edges: np.ndarray, losses: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds on the errors of cells' masses, and of P - e^loss Q between."""
    q, s = pair.sampling_prob, pair.noise_multiplier
    unsampled, plus = _tails(edges / s), _tails((edges - 1) / s)
    minus = _tails((edges + 1) / s) if pair.replace_one else unsampled
    upper = (1 - q) * unsampled + q * plus
    lower = (1 - q) * unsampled + q * minus
    exponents = np.minimum(losses, 700.0)[:-1]
    small = q * (plus + minus)[1:-1] + np.abs(np.expm1(exponents)) * lower[1:-1]
    large = upper[1:-1] + np.exp(exponents) * lower[1:-1]
    moved = np.where(np.abs(exponents) < 0.5, small, large)
    return _ROUNDING * (upper + lower), _ROUNDING * moved


def _tails(edges: np.ndarray) -> np.ndarray:
    """Return the larger tail, of the two whose difference is a cell's mass."""
    low, high = edges[:-1], edges[1:]
    return special.ndtr(np.where(low > 0, -low, high))
