"""Quadrature rules of losses, tilted."""

import numpy as np

_BLOCK = 2**18
"""Numbers to work at a time: what a processor's cache holds."""


def cumulants(
    losses: np.ndarray, log_weights: np.ndarray, counts: np.ndarray, tilt: float
) -> tuple[float, float, float]:
    """Return log E e^(tilt loss) of a total loss, and its first two derivatives.

    Args:
      losses: nodes of the law of each part, `(laws, nodes)`, in nats.
      log_weights: logarithms of their weights, `(laws, nodes)`.
      counts: how often each part is composed, `(laws,)`.
      tilt: t.
    """
    exponents = log_weights + tilt * losses
    peaks = exponents.max(axis=1)
    weights = np.exp(exponents - peaks[:, None])
    sums = weights.sum(axis=1)
    means = (weights * losses).sum(axis=1) / sums
    spreads = (weights * (losses - means[:, None]) ** 2).sum(axis=1) / sums
    log_moment = float(counts @ (peaks + np.log(sums)))
    return log_moment, float(counts @ means), float(counts @ spreads)


def log_moments(
    losses: np.ndarray, log_weights: np.ndarray, counts: np.ndarray, tilts: np.ndarray
) -> np.ndarray:
    """Return log E e^(tilt loss) of a total loss at many tilts: `(tilts,)`.

    The arguments are those of `cumulants`.
    """
    rows = max(1, _BLOCK // max(1, losses.size))
    blocks = [tilts[i : i + rows, None, None] for i in range(0, tilts.size, rows)]
    found = []
    for block in blocks:
        exponents = log_weights + block * losses
        peaks = exponents.max(axis=2)
        sums = np.exp(exponents - peaks[:, :, None]).sum(axis=2)
        found.append((peaks + np.log(sums)) @ counts)
    return np.concatenate(found)
