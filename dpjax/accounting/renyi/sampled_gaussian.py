r"""The Renyi divergences of Poisson-sampled Gaussian releases, at any real orders.

With P and Q the output laws of `privacy_loss`, and L = log P/Q, the divergence of order
a = 1 + c is D = log(E_P e^(c L)) / c. Most of that expectation is 1, which would hide a
small rest. Because E_P e^(-L) = 1, the rest itself is

    E_P e^(c L) - 1 = E_P[phi(c L) + c phi(-L)],    phi(y) = e^y - 1 - y >= 0

a sum of positive terms only, in which nothing cancels. All is kept in logarithms, and
the integral is a sum over the equidistant points of `renyi_nodes`.
"""

from collections.abc import Sequence

import numpy as np

from dpjax.accounting.laws.privacy_loss import SampledGaussian
from dpjax.accounting.renyi import nodes

_MOST_NODES = 2**19
"""Nodes at a time: a bound on memory."""

_ROUNDING = 2.0**-49
"""Relative error of an integrand, by its exponents' size."""

_TERMS = 20
"""Terms of a series at arguments up to 1."""

_LEAST_NOISE = 1e-6
"""With less noise, sampling is left out: it saves less than 1e-9 of the divergence."""

_LEAST = 1e-300
"""What is less is rounded up to it."""


def divergences(
    pairs: Sequence[SampledGaussian], orders: np.ndarray, *, added: bool = False
) -> np.ndarray:
    """Return the Renyi divergences of `pairs` at all `orders`: (pairs, orders).

    Under add-or-remove, adding costs less than removing at every order, and as
    divergences add up, so do the totals: whoever wants both needs the latter only.

    Args:
      pairs: output laws.
      orders: (orders,) real numbers above 1.
      added: D(Q || P), when one is added, instead of D(P || Q), when one is removed;
        the same where the pair is symmetric.

    Returns:
      Divergences in nats, within 1e-12 relatively, or, where that is more, within what
      rounding the arguments moves them by; and not below the exact ones.

    References:
      Mironov, Talwar and Zhang (2019), Renyi differential privacy of the sampled
      Gaussian mechanism: theorem 5 has that removing costs more.
    """
    orders = np.asarray(orders, dtype=float)
    noise, order = (
        grid.ravel()
        for grid in np.meshgrid(
            [p.noise_multiplier for p in pairs], orders, indexing="ij"
        )
    )
    rate = np.repeat([pair.sampling_prob for pair in pairs], orders.size)
    replace = np.repeat([pair.replace_one for pair in pairs], orders.size)
    result = 0.5 * order * np.where(replace, 4.0, 1.0) / noise**2  # Without sampling.
    for both in (False, True):
        fits = (rate < 1) & (noise >= _LEAST_NOISE)
        chosen = np.flatnonzero(fits & (replace == both))
        if chosen.size:
            laws = nodes.Laws(
                noise[chosen],
                rate[chosen],
                order[chosen],
                "replace" if both else "add" if added else "remove",
            )
            result[chosen] = _log_moments(laws) / (order[chosen] - 1)
    return np.maximum(result, _LEAST).reshape(len(pairs), orders.size)


def log_phi(y: np.ndarray) -> np.ndarray:
    """Return log(e^y - 1 - y), elementwise, to all digits; -inf at 0."""
    size = np.clip(y, -1.0, 1.0)
    series = np.ones_like(size)
    for k in range(_TERMS, 2, -1):
        series = 1 + series * size / k
    with np.errstate(divide="ignore"):
        small = 2 * np.log(np.abs(size)) + np.log(0.5 * series)
    low, high = np.minimum(y, -1.0), np.maximum(y, 1.0)
    negative = np.log(np.expm1(low) - low)
    positive = high + np.log1p(-(1 + high) * np.exp(-high))
    return np.where(y > 1, positive, np.where(y < -1, negative, small))


def _log_moments(laws: nodes.Laws) -> np.ndarray:
    """Return log E_P e^(c L), rounded up: (laws,)."""
    low, high, step = nodes.windows(laws, _log_integrand)
    sizes = nodes.sizes(low, high, step)
    batches = np.cumsum(sizes) // _MOST_NODES
    parts = [
        _log_sums(laws.take(here), low[here], high[here], step[here])
        for batch in np.unique(batches)
        if (here := np.flatnonzero(batches == batch)).size
    ]
    return np.logaddexp(0.0, np.concatenate(parts))


def _log_sums(
    laws: nodes.Laws, low: np.ndarray, high: np.ndarray, step: np.ndarray
) -> np.ndarray:
    """Return log(E_P e^(c L) - 1), rounded up."""
    owner, x = nodes.lattice(low, high, step)
    log_density, log_kernel = _integrand(laws.take(owner), x)
    exponents = log_density + log_kernel
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    peaks = np.maximum.reduceat(exponents, starts)
    terms = np.exp(exponents - peaks[owner])
    sums = np.add.reduceat(terms, starts)
    # What a point's two exponents lost in rounding, averaged over the points; where the
    # loss is 0, the kernel's logarithm is infinite.
    sizes = 16 + np.abs(log_density) + np.abs(np.maximum(log_kernel, -1e300))
    lost = _ROUNDING * np.add.reduceat(terms * sizes, starts) / sums
    return peaks + np.log(sums * step) + lost


def _log_integrand(laws: nodes.Laws, x: np.ndarray) -> np.ndarray:
    log_density, log_kernel = _integrand(laws, x)
    return log_density + log_kernel


def _integrand(laws: nodes.Laws, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log P(x), and log(phi(c L) + c phi(-L)), for one law per x."""
    loss, log_density = laws.loss_and_log_density(x)
    power = laws.order - 1
    return log_density, np.logaddexp(
        log_phi(power * loss), np.log(power) + log_phi(-loss)
    )
