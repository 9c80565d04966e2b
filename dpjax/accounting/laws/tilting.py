"""Quadrature rules of losses, tilted."""

import numpy as np


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
