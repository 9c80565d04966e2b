r"""The Renyi divergences of releases that first say which of several pairs they are of.

Their moments E e^(c L) are the means of those of the pairs. Where the roles of a pair
(P, Q) may be swapped, the moment of the larger pair (`revealed`) is

    E_P e^(c L) + int_(L < 0) P (1 - e^(c L)) - int_(L > 0) Q (1 - e^(-c L))

of which the first term is `renyi`'s, and the others have bounded integrands.
"""

import numpy as np
from scipy import special

from dpjax.accounting.laws.privacy_loss import SampledGaussian
from dpjax.accounting.laws.revealed import Component, RevealedMixture
from dpjax.accounting.renyi import sampled_gaussian

_ROUNDING = 1e-12
"""Relative error of an integral, generously."""

_LEAST_NOISE = 0.1
"""With less noise, the bounds of the integrands serve: they are nearly reached."""

_REACH = 12.0
_POINTS, _WEIGHTS = special.roots_legendre(16)


def divergences(laws: RevealedMixture, orders: np.ndarray) -> np.ndarray:
    """Return the Renyi divergences of `laws` at all `orders`: (orders,).

    Args:
      laws: the output laws.
      orders: (orders,) real numbers above 1.

    Returns:
      Divergences in nats, of the direction that costs more, and not below the exact
      ones.
    """
    powers = np.asarray(orders, dtype=float) - 1
    pairs = [part.pair for part in laws.components]
    single = sampled_gaussian.divergences(pairs, powers + 1)
    excesses = np.stack(
        [
            _log_excess(part, powers, values)
            for part, values in zip(laws.components, single, strict=True)
        ]
    )
    weights = np.log([part.weight for part in laws.components])[:, None]
    total = special.logsumexp(excesses + weights, axis=0)
    return np.logaddexp(0.0, total) / powers * (1 + _ROUNDING)


def _log_excess(part: Component, powers: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return log(E e^(c L) - 1), given the divergences of the pair: (powers,)."""
    exponents = powers * values
    with np.errstate(divide="ignore"):
        found = exponents + np.log(-np.expm1(-exponents)) + _ROUNDING
    if not part.swapped or part.pair.symmetric:
        return found
    return np.logaddexp(found, np.log(_swapping(part.pair, powers, found)))


def _swapping(
    pair: SampledGaussian, powers: np.ndarray, log_excess: np.ndarray
) -> np.ndarray:
    """Return what swapping adds to the moment, rounded up: (powers,)."""
    least = 1e-18 * np.exp(np.minimum(log_excess, 0.0))
    if pair.noise_multiplier < _LEAST_NOISE:
        return np.maximum(-np.expm1(powers * np.log1p(-pair.sampling_prob)), least)
    below, above = _integrals(pair, powers)
    return np.maximum(below * (1 + _ROUNDING) - above * (1 - _ROUNDING), least)


def _integrals(
    pair: SampledGaussian, powers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the two integrals of the module's text: (powers,) each."""
    s = pair.noise_multiplier
    width = _REACH * s + 1
    count = int(np.ceil(2 * width / min(s, s**2)))
    edges = np.linspace(0.0, width, count + 1)
    half = np.diff(edges)[:, None] / 2
    away = (edges[:-1, None] + half * (1 + _POINTS)).ravel()
    weights = (half * _WEIGHTS).ravel() / (s * np.sqrt(2 * np.pi))
    low, high = 0.5 - away, 0.5 + away
    losses = pair.loss(low)
    unsampled = weights * np.exp(-0.5 * (low / s) ** 2 + losses)
    below = -np.expm1(powers[:, None] * losses) @ unsampled
    unsampled = weights * np.exp(-0.5 * (high / s) ** 2)
    above = -np.expm1(-powers[:, None] * pair.loss(high)) @ unsampled
    return below, above
