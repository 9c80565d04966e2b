"""Repeat and select: what it costs to keep the best of several private runs.

Tuning by trying spends privacy, even where only the best run is released: that it was
the best tells of the data. The epsilon of the best run alone is no account of it. Where
the number of runs is drawn at random and kept secret, the cost is about that of two or
three runs, whatever the number (Papernot and Steinke 2022).
"""

import dataclasses
import math

import dp_accounting
import numpy as np
from scipy import special, stats

from dpjax import _check
from dpjax.accounting import events, rdp
from dpjax.accounting.epsilon import Epsilon
from dpjax.accounting.events import Event, Relation
from dpjax.accounting.renyi import of_events, repeated

_ORDERS = 1 + np.geomspace(1e-2, 1e5, 421)
_BLOCK = 64


@dataclasses.dataclass(frozen=True)
class Repetitions:
    """How many private runs the best is kept of: a random number.

    | shape       | law                                                            |
    | ----------- | -------------------------------------------------------------- |
    | 0           | logarithmic: cheapest, and often one run only                  |
    | 1           | geometric                                                      |
    | between, up | truncated negative binomial: a larger shape is nearer its mean |
    | infinite    | Poisson: nearest its mean, may be no run at all; dear for large|
    |             | epsilon, cheap for small                                       |

    Attributes:
      mean: the expected number of runs, at least 1. Public.
      shape: eta of the paper. Public.

    Raises:
      ValueError: a number out of range.

    References:
      Papernot and Steinke (2022), Hyperparameter tuning with Renyi differential
      privacy, arXiv 2110.03620, definition 1.

    Example:
      >>> runs = Repetitions(mean=10.0, shape=1.0)
      >>> round(runs.gamma, 9), [runs.quantile(u) for u in (0.05, 0.5, 0.99)]
      (0.1, [1, 7, 44])
    """

    mean: float
    shape: float = 1.0

    def __post_init__(self) -> None:
        """Check the parameters."""
        mean, shape = repeated.checked(self.mean, self.shape)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "shape", shape)

    @property
    def gamma(self) -> float:
        """The other parameter of the truncated negative binomial, in (0, 1]."""
        if self.shape == math.inf:
            _check.fail("a finite shape (a Poisson law has no gamma)", "shape", "inf")
        return math.exp(-repeated.log_inverse_gamma(self.mean, self.shape))

    def log_mass(self, numbers: np.ndarray) -> np.ndarray:
        """Return the log probability of each number of runs, of at least 1: (n,)."""
        k = np.asarray(numbers, float)
        if self.shape == math.inf:
            return np.asarray(stats.poisson.logpmf(k, self.mean))
        if self.mean == 1:
            return np.where(k == 1, 0.0, -np.inf)
        x = repeated.log_inverse_gamma(self.mean, self.shape)
        decay = k * math.log(-math.expm1(-x))
        if self.shape == 0:
            return decay - np.log(k) - math.log(x)
        # (1 - g)^k h (h + 1) ... (h + k - 1) / (k! (g^-h - 1)).
        rising = -np.log(k) - special.betaln(self.shape, k)
        log_norm = self.shape * x + math.log(-math.expm1(-self.shape * x))
        return decay + rising - log_norm

    def quantile(self, level: float) -> int:
        """Return the least number of runs that is not exceeded with this probability.

        Of a uniform level it is a draw, to the rounding of float64: 1e-13 or so in
        total variation.

        Args:
          level: in (0, 1).
        """
        level = _check.open_unit("level", level)
        if self.shape == math.inf:
            return int(stats.poisson.ppf(level, self.mean))
        below, start, size = 0.0, 1, _BLOCK
        while True:
            masses = np.exp(self.log_mass(np.arange(start, start + size)))
            levels = below + np.cumsum(masses)
            if levels[-1] >= level or masses[-1] == 0:
                return start + int(np.searchsorted(levels[:-1], level))
            below, start, size = float(levels[-1]), start + size, 2 * size

    def event(self, one_run: Event) -> Event:
        """Return the event of a search in which every run releases `one_run`."""
        events.take_apart(one_run)
        return dp_accounting.dp_event.RepeatAndSelectDpEvent(
            one_run, self.mean, self.shape
        )


def selection_divergences(
    one_run: Event,
    repetitions: Repetitions,
    orders: np.ndarray,
    *,
    relation: Relation = Relation.ADD_OR_REMOVE_ONE,
) -> np.ndarray:
    """Return the Renyi divergences of the best of a random number of runs.

    Args:
      one_run: what every single run releases, as in `event_epsilon`, its score
        included.
      repetitions: the law of the number of runs.
      orders: (orders,) real numbers above 1.
      relation: which data sets are neighbours.

    Returns:
      (orders,) in nats; infinite where a run has no privacy.

    Raises:
      AccountingError: there is no sound Renyi account of `one_run`.

    References:
      Papernot and Steinke (2022), arXiv 2110.03620, theorems 2 and 6.
    """
    parts = events.take_apart(repetitions.event(one_run))
    if any(part == events.NON_PRIVATE for part, _ in parts):
        return np.full(len(orders), np.inf)
    return of_events.divergences(parts, np.asarray(orders), relation)


def selection_epsilon(
    one_run: Event,
    delta: float,
    *,
    repetitions: Repetitions,
    relation: Relation = Relation.ADD_OR_REMOVE_ONE,
) -> Epsilon:
    """Return the honest epsilon of a search that keeps the best of its runs.

    Args:
      one_run: what every single run releases, as in `event_epsilon`; also what its
        score cost, if that was computed of private data.
      delta: in (0, 1).
      repetitions: the law of the number of runs.
      relation: which data sets are neighbours.

    Returns:
      Epsilon in nats, of the method "rdp".

    Raises:
      ValueError: `delta` is out of range.
      AccountingError: there is no sound Renyi account of `one_run`.

    Guarantee: with K drawn from `repetitions`, secret and without a look at the data, K
    runs, each a fresh draw of one mechanism whose event is `one_run`, and only the best
    output released (by an order that was fixed before), what is released is (epsilon,
    delta)-differentially private under `relation`. A grid or a list that is worked
    through in full is not covered, nor is a best-of-10.

    Example:
      >>> step = dp_accounting.PoissonSampledDpEvent(
      ...     0.01, dp_accounting.GaussianDpEvent(1.0)
      ... )
      >>> run = dp_accounting.SelfComposedDpEvent(step, 1000)
      >>> runs = Repetitions(mean=10.0, shape=0.0)
      >>> round(selection_epsilon(run, 1e-5, repetitions=runs), 2)
      3.53
    """
    delta = _check.open_unit("delta", delta)
    if not events.take_apart(one_run):
        return Epsilon(0.0, error=0.0, method="rdp")
    totals = selection_divergences(one_run, repetitions, _ORDERS, relation=relation)
    finite = np.isfinite(totals)
    if not finite.any():
        return Epsilon(math.inf, error=0.0, method="rdp")
    return Epsilon(rdp.best_bound(_ORDERS[finite], totals[finite], delta), method="rdp")
