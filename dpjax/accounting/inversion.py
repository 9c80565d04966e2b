"""Delta at a given epsilon, from an accountant that gives epsilon at a given delta."""

import math
from collections.abc import Callable

from scipy import optimize

from dpjax.accounting.epsilon import AccountingError, Delta, Epsilon
from dpjax.accounting.events import Parts, Relation

_LEAST, _MOST = math.log(1e-250), math.log1p(-1e-9)
_PRECISION = 1e-6
"""Of a logarithm of delta."""


def invert(
    epsilon_of: Callable[[Parts, float, Relation], Epsilon],
    parts: Parts,
    epsilon: float,
    relation: Relation,
) -> Delta:
    """Return a delta at which `epsilon_of` says at most `epsilon`.

    Args:
      epsilon_of: an accountant's epsilon, which falls as delta grows.
      parts: what was released.
      epsilon: at least 0.
      relation: which data sets are neighbours.
    """

    def gap(log_delta: float) -> float:
        """Return how much more than `epsilon` is spent; refusals are infinite.

        What is spent may be 0 over a whole range of deltas: just enough is below it.
        """
        try:
            spent = float(epsilon_of(parts, math.exp(log_delta), relation))
        except AccountingError:
            return math.inf
        return spent - epsilon if spent != epsilon else -_PRECISION

    log_delta = _MOST
    if gap(_MOST) > 0:
        return Delta(0.0, method=epsilon_of(parts, math.exp(_MOST), relation).method)
    low = _LEAST
    while gap(low) == math.inf and low < _MOST / 2:
        low /= 1.5
    if gap(low) <= 0:
        log_delta = low
    elif gap(low) < math.inf:
        log_delta = optimize.brentq(gap, low, _MOST, xtol=_PRECISION)
        while gap(log_delta) > 0:
            log_delta = min(log_delta + _PRECISION, _MOST)
    method = epsilon_of(parts, math.exp(log_delta), relation).method
    return Delta(log_delta, method=method)
