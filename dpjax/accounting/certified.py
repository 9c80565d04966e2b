"""The certified accountant: an upper bound with a proof, rounding included."""

from collections.abc import Sequence

import numpy as np

from dpjax import _check
from dpjax.accounting import exact, of_parts, pld
from dpjax.accounting.certificates import bound
from dpjax.accounting.certificates.dominating import dominating_laws
from dpjax.accounting.epsilon import AccountingError, Delta, Epsilon
from dpjax.accounting.events import Parts, Relation
from dpjax.accounting.grids.grid import Grid
from dpjax.accounting.inversion import invert
from dpjax.accounting.laws.privacy_loss import SampledGaussian


def epsilon(parts: Parts, delta: float, relation: Relation) -> Epsilon:
    """Return a proven upper bound on the epsilon of `parts` at `delta`.

    Plain Gaussian releases, and a single sampled one, have a closed form whose number
    is rounded up by more than its error. The others are composed on a grid, of laws
    that dominate the true ones (`dominating`), with a bound on all that composing
    leaves out or rounds (`bound`, which has the proof). Where that is more, or has no
    end, the bound is that of the releases without sampling, by their closed form.

    Args:
      parts: Gaussian releases, plain or Poisson sampled.
      delta: in (0, 1).
      relation: which data sets are neighbours.

    Returns:
      The bound; `.error` says how far it is above the exact accountant's value.

    Raises:
      AccountingError: another event, a noise multiplier below 1/16 with sampling, or
        more than 10^10 releases.

    Guarantee: not below the truth, if the normal distribution function is good to a
    relative 1e-13, and a fast Fourier transform of n numbers to 8 log2 n ulp.
    """
    if not of_parts.is_gaussian(parts):
        what = "Gaussian releases, or another accountant"
        _check.fail(what, "event", [part for part, _ in parts], AccountingError)
    truth = exact.epsilon(parts, delta, relation)
    single = sum(count for _, count in parts) == 1
    if not truth > 0 or single or not of_parts.is_sampled(parts):
        return Epsilon(truth, error=truth.error, method="certified")
    if not of_parts.fits_a_grid(parts):
        what = "noise multipliers of at least 1/16, or another accountant"
        _check.fail(what, "event", [part for part, _ in parts], AccountingError)
    plain = pld.epsilon(of_parts.unsampled(parts), delta, relation)
    value = min(float(plain), _upper(parts, delta, relation))
    return Epsilon(value, error=value - (truth - truth.error), method="certified")


def delta(parts: Parts, epsilon_wanted: float, relation: Relation) -> Delta:
    """Return a proven upper bound on the delta of `parts` at an epsilon."""
    return invert(epsilon, parts, epsilon_wanted, relation)


def curve(
    parts: Parts, delta: float, relation: Relation, steps: Sequence[int]
) -> np.ndarray:
    """Return bounds after each number of `steps`, one step releasing `parts`."""

    def after(number: int) -> float:
        scaled = [(part, number * count) for part, count in parts]
        return epsilon(scaled, delta, relation) if number else 0.0

    return np.array([after(number) for number in steps], dtype=float)


def _upper(parts: Parts, delta: float, relation: Relation) -> float:
    """Return the larger bound of both directions."""
    pairs = [of_parts.pair(part, relation) for part, _ in parts]
    counts = [count for _, count in parts]
    removed = _one_side(pairs, counts, delta, 0)
    if all(pair.symmetric for pair in pairs):
        return removed
    # Adding, the largest loss of a step is -log(1 - q).
    rates = [pair.sampling_prob for pair in pairs]
    if max(rates) < 1:
        most = -float(np.dot(counts, np.log1p(-np.array(rates)))) * (1 + 1e-12)
        if most <= removed:
            return removed
    return max(removed, _one_side(pairs, counts, delta, 1))


def _one_side(
    pairs: Sequence[SampledGaussian], counts: Sequence[int], delta: float, side: int
) -> float:
    """Return the bound when one is removed (0) or added (1)."""
    grid = Grid.choose(pairs, counts, delta, side)
    view = grid.windows(counts, delta)[side]
    laws = [dominating_laws(pair, grid.interval, grid.tail)[side] for pair in pairs]
    return bound.epsilon(bound.compose(laws, counts, view, grid.interval), delta)
