"""Nodes at which the moments of a privacy loss are summed.

The trapezoidal rule on the whole line converges geometrically where the integrand is
analytic in a strip: with half its width b and the distance h of nodes, the error is at
most 2 / (e^(2 pi b / h) - 1) times the integral of |integrand| along an edge.

Large losses that are accounted for elsewhere, or hardly ever occur, are left out,
smoothly: moments of tilts that matter would otherwise be all theirs.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from dpjax.accounting.laws.privacy_loss import SampledGaussian

_DIGITS = 38.0
"""e^-38 is nothing."""

_WIDTH = 0.125
"""Width of the smooth divisions, in noise standard deviations."""

_LEAD = 8.4
"""In these widths, how far beyond the top the division has its middle."""

_EDGES = (0.3, 0.6, 0.9)
_MOST_NODES = 2**17
_SCAN, _PROBES = 257, 64


class TooManyNodesError(ValueError):
    """The quadrature would need more nodes than are worth their time."""


class Region(NamedTuple):
    """Smooth divisions of the outputs.

    Attributes:
      log_tail: logarithm of the mass of P that may be left out at the top.
      added: whether the losses are -L under Q.
      floor: loss above which an output belongs to "the part", or None for no part.
      ceiling: loss above which outputs may be left out, or None for `log_tail`'s.
    """

    log_tail: float
    added: bool
    floor: float | None = None
    ceiling: float | None = None

    def bounded(self, pair: SampledGaussian) -> bool:
        """Tell whether the losses have a largest one, so that nothing is left out."""
        return self.added and not pair.replace_one

    def top(self, pair: SampledGaussian) -> float:
        """Return the output below which nothing is left out."""
        if self.ceiling is not None:
            return float(pair.output(np.array(self.ceiling)))
        return self.end(pair)

    def end(self, pair: SampledGaussian) -> float:
        """Return the output above which P has the mass e^log_tail."""
        s, q = pair.noise_multiplier, pair.sampling_prob
        unsampled = -s * special.ndtri_exp(self.log_tail - 1)
        share = min(-1.0, self.log_tail - 1 - math.log(q))
        return float(max(unsampled, 1 - s * special.ndtri_exp(share)))

    def log_kept(self, pair: SampledGaussian, x: np.ndarray) -> np.ndarray:
        """Return the logarithm of the share of outputs `x` that is not left out."""
        if self.bounded(pair):
            return np.zeros_like(x)
        return special.log_ndtr(self._below(pair, x))

    def left_out(self, pair: SampledGaussian) -> tuple[float, float]:
        """Return what is left out of the masses of P and of Q."""
        s = pair.noise_multiplier
        x = self.top(pair) + 0.04 * s * np.arange(2000)
        log_q = log_density(pair, x) + math.log(0.04 * s)
        log_q += special.log_ndtr(-self._below(pair, x))
        with np.errstate(over="ignore"):
            upper = np.exp(log_q + np.minimum(pair.loss(x), 700 - log_q))
        return float(upper.sum()), float(np.exp(log_q).sum())

    def _below(self, pair: SampledGaussian, x: np.ndarray) -> np.ndarray:
        width = _WIDTH * pair.noise_multiplier
        return (self.top(pair) - x) / width + _LEAD

    def log_share(self, pair: SampledGaussian, x: np.ndarray) -> np.ndarray:
        """Return the logarithm of the part's share of outputs `x`."""
        return special.log_ndtr(self._distance(pair, x))

    def log_rest(self, pair: SampledGaussian, x: np.ndarray) -> np.ndarray:
        """Return the logarithm of the share that is not the part's."""
        return special.log_ndtr(-self._distance(pair, x))

    def _distance(self, pair: SampledGaussian, x: np.ndarray) -> np.ndarray:
        assert self.floor is not None
        sign = -1 if self.added else 1
        place = float(pair.output(np.array(sign * self.floor)))
        place = min(max(place, -1e300), 1e300)
        return sign * (x - place) / (_WIDTH * pair.noise_multiplier)


def outputs(pair: SampledGaussian, region: Region) -> tuple[float, float]:
    """Return the ends beyond which outputs have no weight that matters."""
    s = pair.noise_multiplier
    if region.bounded(pair):
        reach = s * math.sqrt(2 * (40.0 - min(0.0, region.log_tail)))
        return -reach, reach + 1
    high = region.end(pair) + (_LEAD + 14) * _WIDTH * s
    return (-high if pair.replace_one else -12 * s), high


def log_density(pair: SampledGaussian, x: np.ndarray) -> np.ndarray:
    """Return the logarithm of the density of Q at x, elementwise."""
    s = pair.noise_multiplier
    normal = -0.5 * (x / s) ** 2 - math.log(s * math.sqrt(2 * math.pi))
    return normal + _log_mixture(pair, -x) if pair.replace_one else normal


def nodes(
    pair: SampledGaussian, real: float, highest: float, region: Region
) -> tuple[np.ndarray, float]:
    """Return equidistant nodes for M(real + i y), |y| <= highest, and their distance.

    Args:
      pair: the output laws, with a sampling probability below 1.
      real: real part of the argument.
      highest: largest |y|.
      region: whose shares the integrand is multiplied by.

    Raises:
      TooManyNodesError: it takes more than 2^17.
    """
    x, peak = _scan(pair, real, region, _ends(pair, real, region))
    if x.size < _SCAN // 8:
        x, peak = _scan(pair, real, region, (x[0], x[-1]))
    # P / Q has its zeros at the distance pi s^2 from the real line.
    widest = min(math.pi * pair.noise_multiplier**2, 9 * pair.noise_multiplier)
    probes = x[:: max(1, x.size // _PROBES)]
    step = 0.0
    for edge in (widest * share for share in _EDGES):
        growth = _log_edge(pair, real, highest, region, probes + 1j * edge) - peak
        step = max(step, 2 * math.pi * edge / (_DIGITS + max(0.0, growth)))
    count = max(16.0, (x[-1] - x[0]) / step)
    if not count <= _MOST_NODES:
        raise TooManyNodesError
    return np.linspace(x[0], x[-1], math.ceil(count) + 1, retstep=True)


def _scan(
    pair: SampledGaussian, real: float, region: Region, ends: tuple[float, float]
) -> tuple[np.ndarray, float]:
    """Return outputs over which the integrand extends, and its largest logarithm."""
    x = np.linspace(*ends, _SCAN)
    losses, log_kept = pair.loss(x), region.log_kept(pair, x)
    # Of e^(w L) - 1 - w (e^L - 1), only the first term is left out.
    linear = np.where(log_kept < -1e-17, _log_linear(real, losses), -np.inf)
    log_terms = np.maximum(_log_size(real, losses) + log_kept, linear)
    log_terms += log_density(pair, x)
    peak = float(log_terms.max())
    kept = np.flatnonzero(log_terms > peak - _DIGITS)
    if not kept.size:
        # Infinite, or nothing at all: losses beyond what floats hold.
        raise TooManyNodesError
    return x[max(kept[0] - 1, 0) : kept[-1] + 2], peak


def _ends(pair: SampledGaussian, real: float, region: Region) -> tuple[float, float]:
    """Return the ends beyond which the integrand of M is nothing."""
    low, high = outputs(pair, region)
    if region.bounded(pair):
        s = pair.noise_multiplier
        log_most = real * math.log1p(-pair.sampling_prob)
        return -s * math.sqrt(2 * (72 + log_most)), 12 * s + 1
    return low, high


def _log_edge(
    pair: SampledGaussian, real: float, highest: float, region: Region, x: np.ndarray
) -> float:
    """Return the largest logarithm of the integrand at the complex outputs `x`."""
    log_q, loss = log_density(pair, x), _complex_loss(pair, x)
    kept = region.log_kept(pair, x).real
    shares = [np.maximum(0.0, kept)]
    if region.floor is not None:
        shares.append(kept + region.log_share(pair, x).real)
    arguments = [real + 1j * y for y in (-highest, highest)]
    sizes = np.maximum(*(_log_size(w, loss) for w in arguments))
    return float(np.max(np.max(shares, axis=0) + log_q.real + sizes))


def _log_size(w: complex, loss: np.ndarray) -> np.ndarray:
    """Return about log |e^(w L) - 1 - w (e^L - 1)|, elementwise."""
    power = w * loss
    with np.errstate(divide="ignore"):
        square = np.log(0.5 * abs(w * (w - 1)) * np.abs(loss) ** 2)
    large = np.maximum(power.real, _log_linear(w, loss))
    return np.where(np.abs(power) < 1, square, large)


def _log_linear(w: complex, loss: np.ndarray) -> np.ndarray:
    """Return about log |1 + w (e^L - 1)|, from above."""
    return np.logaddexp(0.0, math.log(abs(w)) + loss.real)


def _complex_loss(pair: SampledGaussian, x: np.ndarray) -> np.ndarray:
    loss = _log_mixture(pair, x)
    return loss - _log_mixture(pair, -x) if pair.replace_one else loss


def _log_mixture(pair: SampledGaussian, x: np.ndarray) -> np.ndarray:
    """Return log(1 - q + q e^((x - 1/2) / s^2)) for real or complex x."""
    exponent = (x - 0.5) / pair.noise_multiplier**2
    if not np.iscomplexobj(x):
        return pair.log_mixture(exponent)
    q = pair.sampling_prob
    turn = np.exp(1j * exponent.imag)
    near = np.log(1 - q + q * np.exp(np.minimum(exponent.real, 1.0)) * turn)
    fading = (1 - q) / q * np.exp(-np.maximum(exponent.real, 1.0)) / turn
    return np.where(
        exponent.real < 1, near, exponent + math.log(q) + np.log(1 + fading)
    )
