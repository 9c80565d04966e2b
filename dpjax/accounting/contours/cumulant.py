r"""The moment generating function of a privacy loss, for complex arguments.

For a pair (P, Q) of output laws with the loss L = log P/Q, everything that the contour
needs is a value of

    M(w) = E_Q[e^(w L)]

"Remove" is the loss L under P, with E e^(z L) = M(1 + z); "add" is -L under Q, with
E e^(-z L) = M(-z). As M(0) = M(1) = 1, what matters is M(w) - 1, which may be 1e-12 and
is then multiplied by 1e9 steps. It is computed without cancellation, as the mean of

    e^(w L) - 1 - w (e^L - 1) = sum over n >= 2 of (w^n - w) L^n / n!
"""

import math
from typing import NamedTuple

import numpy as np

from dpjax.accounting.contours import quadrature
from dpjax.accounting.laws.privacy_loss import SampledGaussian

_SERIES_REACH = 1.0
"""Where |w L| is below this, the series is used."""

_SERIES_TERMS = np.arange(2, 20)

_LARGEST_EXPONENT = 600.0

_MOST_TERMS = 2**25
"""Exponentials that are worth their time: some milliseconds."""


class Moments(NamedTuple):
    """Moments of one loss at the same arguments: (n,) complex each.

    Attributes:
      log_rest: logarithms of M(w) - part, of any branch.
      gain: log M(w) - log_rest.
      rounding: absolute error of `log_rest`.
    """

    log_rest: np.ndarray
    gain: np.ndarray
    rounding: float


def moments(
    pair: SampledGaussian,
    real: float,
    imaginary: np.ndarray,
    region: quadrature.Region,
) -> Moments:
    """Return M(w) at w = real + 1j * imaginary, in two parts.

    Args:
      pair: the output laws.
      real: real part of w.
      imaginary: (n,) imaginary parts, equidistant.
      region: which outputs are left out, and which make up the part.

    Raises:
      TooManyNodesError: the integrand turns too often for so many arguments.
    """
    w = real + 1j * imaginary
    if pair.sampling_prob == 1:
        quadratic = 0.5 * pair.shift**2 * w * (w - 1)
        largest = float(np.abs(quadratic).max())
        return Moments(quadratic, np.zeros_like(w), 2.0**-52 * largest)
    highest = float(np.abs(imaginary).max())
    x, step = quadrature.nodes(pair, real, highest, region)
    if x.size * w.size > _MOST_TERMS:
        raise quadrature.TooManyNodesError
    log_weights = quadrature.log_density(pair, x) + math.log(step)
    losses, log_kept = pair.loss(x), region.log_kept(pair, x)
    near = np.abs(losses) * math.hypot(real, highest) < _SERIES_REACH
    near &= log_kept > -1e-17
    excess = _series(w, losses[near], np.exp(log_weights[near]))
    peak, far = _direct(w, losses[~near], log_weights[~near], log_kept[~near])
    rounding = 2.0**-52 * (abs(excess[0]) + abs(far[0]) + 4 * _mass(log_weights[~near]))
    if peak > 0:
        values = peak + np.log(far + (1 + excess) * math.exp(-peak))
        return Moments(values, np.zeros_like(w), 2.0**-52 * peak)
    excess += far
    if region.floor is None:
        return Moments(_log1p(excess), np.zeros_like(w), rounding)
    log_weights += log_kept + region.log_share(pair, x)
    part = _sum_of_exponentials(w, losses, log_weights, 0.0)
    log_rest = _log1p(excess - part)
    ratio = part / np.exp(log_rest)
    large = np.abs(ratio) > 0.5
    gain = np.where(large, _log1p(excess) - log_rest, _log1p(np.where(large, 0, ratio)))
    return Moments(log_rest, gain, rounding)


def _mass(log_weights: np.ndarray) -> float:
    return float(np.exp(log_weights).sum())


def _series(w: np.ndarray, losses: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted sum of e^(w L) - 1 - w (e^L - 1) for small |w L|."""
    if not losses.size:
        return np.zeros_like(w)
    size = np.abs(w).max()
    scaled_losses, scaled = losses * size, w / size
    power = weights * scaled_losses
    total, power_of_w = np.zeros_like(w), scaled.copy()
    for n in _SERIES_TERMS:
        power = power * scaled_losses / n
        power_of_w = power_of_w * scaled
        # (w^n - w) / |w|^n, so that neither factor leaves the range of floats.
        total += power.sum() * (power_of_w - scaled * size ** (1.0 - n))
    return total


def _direct(
    w: np.ndarray, losses: np.ndarray, log_weights: np.ndarray, log_kept: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return (peak, sum): the sum of the same for large |w L|, over e^peak."""
    if not losses.size:
        return 0.0, np.zeros_like(w)
    kept = log_weights + log_kept
    largest = float((kept + w[0].real * losses).max())
    peak = max(0.0, largest - _LARGEST_EXPONENT)
    total = _sum_of_exponentials(w, losses, kept, peak)
    if peak > 0:
        return peak, total
    shifted = np.where(
        losses < 1,
        np.exp(log_weights) * np.expm1(np.minimum(losses, 1.0)),
        np.exp(log_weights + losses) - np.exp(log_weights),
    )
    return 0.0, total - _mass(log_weights) - w * shifted.sum()


def _sum_of_exponentials(
    w: np.ndarray, losses: np.ndarray, log_weights: np.ndarray, peak: float
) -> np.ndarray:
    """Return the sum of e^(log_weights + w L - peak)."""
    matters = log_weights + w[0].real * losses > peak - 200.0
    losses, log_weights = losses[matters], log_weights[matters]
    real = np.exp(log_weights + w[0].real * losses - peak)
    # The arguments are equidistant: with n = b j + k, e^(i n h L) is e^(i b j h L)
    # times e^(i k h L): the product of two thin tables makes up for a thick one.
    block = 2 ** (math.ceil(math.log2(w.size)) // 2)
    step = w.imag[1] - w.imag[0] if w.size > 1 else 0.0
    left = _powers(np.exp(1j * step * losses), block)
    right = _powers(np.exp(1j * (block * step) * losses), math.ceil(w.size / block))
    right *= real * np.exp(1j * w.imag[0] * losses)
    return (right @ left.T).reshape(-1)[: w.size]


def _powers(base: np.ndarray, count: int) -> np.ndarray:
    """Return base^0, ..., base^(count - 1), by doubling: (count, n)."""
    table = np.ones((count, base.size), dtype=complex)
    done = 1
    while done < count:
        more = min(done, count - done)
        np.multiply(table[:more], base, out=table[done : done + more])
        base, done = base * base, done + more
    return table


def _log1p(excess: np.ndarray) -> np.ndarray:
    """Return log(1 + excess) with all digits of a small complex `excess`."""
    re, im = excess.real, excess.imag
    with np.errstate(divide="ignore", over="ignore"):
        log_size = 0.5 * np.log1p(np.maximum(2 * re + re**2 + im**2, -1.0))
        far = np.log(np.hypot(1 + re, im))
    log_size = np.where(np.abs(log_size) < 0.3, log_size, np.maximum(far, -600.0))
    return log_size + 1j * np.arctan2(im, 1 + re)
