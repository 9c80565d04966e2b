"""Renyi divergences of the best of a random number of runs.

K runs of one mechanism, K drawn without a look at the data, and only the best of their
outputs is released. With (a, R(a)) the Renyi divergences of one run:

    K truncated negative binomial, of shape h and parameter g (theorem 2):
      R(a) + (1 + h) min over b of ((1 - 1/b) R(b) + log(1/g) / b) + log E[K] / (a - 1)
    K Poisson (theorem 6), with one run (log(1 + 1 / (a - 1)), d)-private:
      R(a) + E[K] d + log E[K] / (a - 1)

References:
  Papernot and Steinke (2022), Hyperparameter tuning with Renyi differential privacy,
  arXiv 2110.03620.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize

from dpjax import _check

Curve = Callable[[np.ndarray], np.ndarray]
"""Renyi divergences (orders,) of one run at orders above 1: (orders,)."""

GRID = 1 + np.geomspace(1e-3, 1e6, 361)
"""The orders of one run among which those are looked for that serve best."""

_ROUNDING = 2.0**-46


def divergences(
    one_run: Curve,
    on_grid: np.ndarray,
    orders: np.ndarray,
    *,
    mean: float,
    shape: float,
) -> np.ndarray:
    """Return bounds on the divergences of the best of K runs.

    Args:
      one_run: the divergences of one run, or bounds on them.
      on_grid: those at `GRID`, known already: (361,).
      orders: (orders,) real numbers above 1.
      mean: E[K], at least 1.
      shape: of K: 0 logarithmic, 1 geometric, infinite Poisson, else at least 0.

    Returns:
      (orders,) in nats. A divergence grows with its order, so each is the least bound
      of its own order and of higher ones.

    Raises:
      ValueError: `mean` or `shape` is out of range.
    """
    mean, shape = checked(mean, shape)
    wide, first = np.unique(np.append(GRID, orders), return_index=True)
    single = np.append(on_grid, one_run(orders))[first]
    excess = _excess(single, wide, mean, shape) + math.log(mean) / (wide - 1)
    bounds = (single + excess) * (1 + _ROUNDING)
    least = np.minimum.accumulate(bounds[::-1])[::-1]
    return least[np.searchsorted(wide, orders)]


def checked(mean: float, shape: float) -> tuple[float, float]:
    """Return the parameters of K as floats, checked."""
    mean = _check.real("mean", mean)
    if mean < 1:
        _check.fail("a mean number of runs >= 1", "mean", mean)
    if shape != math.inf:
        shape = _check.non_negative("shape", shape)
    return mean, float(shape)


def log_inverse_gamma(mean: float, shape: float) -> float:
    """Return log(1 / g) of the truncated negative binomial with this mean and shape.

    E[K] = h (1 - g) / (g (1 - g^h)), and (1 / g - 1) / log(1 / g) for h = 0, grows with
    log(1 / g), from 1.
    """

    def excess(x: float) -> float:
        return _log_mean(x, shape) - math.log(mean)

    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-300, rtol=1e-15))


def _excess(
    single: np.ndarray, orders: np.ndarray, mean: float, shape: float
) -> np.ndarray | float:
    """Return what selecting adds to a divergence, beside the term of the mean."""
    if shape == math.inf:
        return mean * _deltas(single, orders)
    at_one = log_inverse_gamma(mean, shape)
    # At b = 1 the divergence of order b does not matter.
    others = np.min((1 - 1 / orders) * single + at_one / orders)
    return (1 + shape) * min(at_one, float(others))


def _log_mean(x: float, shape: float) -> float:
    """Return log E[K] for g = exp(-x): of h (e^x - 1) / (1 - e^(-h x))."""
    if x == 0:
        return 0.0
    # log(e^x - 1) would overflow for large x.
    growth = x + math.log(-math.expm1(-x))
    share = math.log(-math.expm1(-shape * x) / shape) if shape > 0 else math.log(x)
    return growth - share


def _deltas(single: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Return the delta of one run at epsilon log(1 + 1 / (a - 1)), for each order a.

    From the divergences, by proposition 12 of Canonne, Kamath and Steinke (2020).
    """
    epsilons = np.log1p(1 / (orders - 1))
    finite = np.isfinite(single)
    a, divergence = orders[finite], single[finite]
    logs = (a - 1) * (divergence + np.log1p(-1 / a)) - np.log(a)
    slack = np.min(logs[None] - epsilons[:, None] * (a - 1)[None], axis=1, initial=0.0)
    return np.exp(np.minimum(slack, 0.0))
