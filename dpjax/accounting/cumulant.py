r"""The cumulant generating function of a privacy loss, for complex arguments.

For a pair (P, Q) of output laws with the loss L = log P/Q, everything that the contour
needs is a value of

    M(w) = E_Q[e^(w L)]

"Remove" is the loss L under P, with E e^(z L) = M(1 + z); "add" is -L under Q, with
E e^(-z L) = M(-z). As M(0) = M(1) = 1, what matters is M(w) - 1, which may be 1e-12 and
is then multiplied by 1e9 steps. It is computed without cancellation, as the mean of

    e^(w L) - 1 - w (e^L - 1) = sum over n >= 2 of (w^n - w) L^n / n!
"""

import math

import numpy as np
from scipy import special

from dpjax.accounting.privacy_loss import SampledGaussian

_DIGITS = 40.0
"""e^-40 is nothing."""

_SERIES_REACH = 2.0
"""Where |w L| is below this, the series is used."""

_SERIES_TERMS = np.arange(2, 33)

_MOST_NODES = 2**15
_SCAN = 4097


class TooManyNodesError(ValueError):
    """The quadrature would need more nodes than are worth their time."""


def log_moment(
    pair: SampledGaussian, real: float, imaginary: np.ndarray
) -> np.ndarray:
    """Return log M(w) at w = real + 1j * imaginary.

    Args:
      pair: the output laws.
      real: real part of w.
      imaginary: (n,) imaginary parts.

    Returns:
      (n,) complex logarithms, of any branch.
    """
    w = real + 1j * imaginary
    if pair.sampling_prob == 1:
        shift = (2 if pair.replace_one else 1) / pair.noise_multiplier
        return 0.5 * shift**2 * w * (w - 1)
    x, step = _nodes(pair, real, float(np.abs(imaginary).max()))
    log_weights = _log_density(pair, x) + math.log(step)
    losses = pair.loss(x)
    near = np.abs(losses) * np.abs(w).max() < _SERIES_REACH
    excess = _series(w, losses[near], np.exp(log_weights[near]))
    peak, far = _direct(w, losses[~near], log_weights[~near])
    if peak > 0:
        return peak + np.log(far + excess * math.exp(-peak) + math.exp(-peak))
    return _log1p(excess + far)


def _series(w: np.ndarray, losses: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted sum of e^(w L) - 1 - w (e^L - 1) for small |w L|."""
    if not losses.size:
        return np.zeros_like(w)
    size = np.abs(w).max()
    powers = (losses * size) ** _SERIES_TERMS[:, None]
    moments = powers @ weights / special.factorial(_SERIES_TERMS)
    scaled = w / size
    # (w^n - w) / |w|^n, so that neither factor leaves the range of floats.
    total = np.zeros_like(w)
    for n, moment in zip(_SERIES_TERMS[::-1], moments[::-1], strict=True):
        total += moment * (scaled**n - scaled * size ** (1.0 - n))
    return total


def _direct(
    w: np.ndarray, losses: np.ndarray, log_weights: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return (peak, sum): the sum of the same for large |w L|, over e^peak."""
    if not losses.size:
        return 0.0, np.zeros_like(w)
    exponents = log_weights + w[:, None] * losses
    peak = max(0.0, float(exponents.real.max()) - 600.0)
    total = np.exp(exponents - peak).sum(axis=1)
    if peak > 0:
        return peak, total
    weights = np.exp(log_weights)
    shifted = np.exp(log_weights + losses) - weights
    return 0.0, total - weights.sum() - w * shifted.sum()


def _log1p(excess: np.ndarray) -> np.ndarray:
    """Return log(1 + excess) with all digits of a small complex `excess`."""
    re, im = excess.real, excess.imag
    return 0.5 * np.log1p(2 * re + re**2 + im**2) + 1j * np.arctan2(im, 1 + re)


def _log_density(pair: SampledGaussian, x: np.ndarray) -> np.ndarray:
    """Return the log density of Q."""
    s, q = pair.noise_multiplier, pair.sampling_prob
    log_density = -0.5 * (x / s) ** 2 - math.log(s * math.sqrt(2 * math.pi))
    if not pair.replace_one:
        return log_density
    return log_density + pair.log_mixture((-x - 0.5) / s**2)


def _nodes(
    pair: SampledGaussian, real: float, highest: float
) -> tuple[np.ndarray, float]:
    """Return equidistant nodes for M(real + i y), |y| <= highest, and their distance.

    On the line that is b s i away from the real one, with b / s < pi below the zeros of
    P / Q, the integrand grows by at most e^(b^2 / 2 + |y| b / s) (and, for a negative
    real part, by the growth of |P/Q|^real); the error of the trapezoidal rule is that
    times e^(-2 pi b / distance).
    """
    s = pair.noise_multiplier
    low, high = _range(pair, real)
    shift = (2 if pair.replace_one else 1) / s
    bend = max(0.0, -real) * shift**2 / 4 + (abs(real) * shift**2/4 if pair.replace_one else 0)
    b = min(math.sqrt(2 * _DIGITS / (1 + bend)), 0.8 * math.pi * s)
    growth = _DIGITS / b + b * (1 + bend) / 2 + highest * shift
    step = 2 * math.pi * s / growth
    count = math.ceil((high - low) / step)
    if count > _MOST_NODES:
        raise TooManyNodesError
    count = max(count, 16)
    x = np.linspace(low, high, count + 1)
    return x, (high - low) / count


def _range(pair: SampledGaussian, real: float) -> tuple[float, float]:
    """Return the ends beyond which the integrand is nothing."""
    s, q = pair.noise_multiplier, pair.sampling_prob
    reach = 12 * s
    low = -reach
    high = reach + max(1.0, real)
    if real < 0:
        low = -s * math.sqrt(2 * (72 + real * math.log1p(-q)))
        high = reach + 1
    if pair.replace_one:
        low, high = -reach - max(1.0, real, -real), reach + max(1.0, abs(real))
    x = np.linspace(low, high, _SCAN)
    losses = pair.loss(x)
    log_density = _log_density(pair, x)
    powers = real * losses
    small = np.abs(powers) < 1
    with np.errstate(divide="ignore"):
        log_terms = log_density + np.where(
            small,
            np.log(np.abs(real * (real - 1)) * losses**2),
            np.maximum(powers, np.log(1 + abs(real) * np.abs(losses))),
        )
    kept = np.flatnonzero(log_terms > log_terms.max() - _DIGITS)
    first, last = max(kept[0] - 1, 0), min(kept[-1] + 1, _SCAN - 1)
    return float(x[first]), float(x[last])
