"""The trade-off curve: how well anybody can tell whether an example was used.

Whoever sees all releases and guesses whether one example was among the data errs in
two ways: a false positive (it was not) and a false negative (it was). The curve f has,
for each false positive rate, the least false negative rate that any test reaches. An
(epsilon, delta) guarantee is a pair of tangents of f: with a its argument,

    f(a) >= 1 - delta - e^epsilon a,    f(a) >= e^-epsilon (1 - delta - a)

and all guarantees together are f.
"""

import dataclasses
import math

import dp_accounting
import numpy as np
import numpy.typing as npt

from dpjax import _check
from dpjax.accounting import accountants, events

_LEAST_DELTA = 1e-12
_NUM_STEEP, _NUM_FLAT = 32, 33


@dataclasses.dataclass(frozen=True)
class TradeOffCurve:
    """A lower bound on a trade-off curve, made of straight lines.

    Args:
      epsilons: (n,) in nats, increasing from 0.
      deltas: (n,) delta at each of them.

    Guarantee: what an (epsilon_i, delta_i)-differentially private mechanism allows, for
    all i at once: no test has a false negative rate below the curve.

    References:
      Wasserman and Zhou (2010), A statistical framework for differential privacy;
      Dong, Roth and Su (2022), Gaussian differential privacy.
    """

    epsilons: np.ndarray
    deltas: np.ndarray

    @property
    def advantage(self) -> float:
        """The membership advantage: the most that TPR - FPR can be."""
        return float(self.deltas[0])

    @property
    def vertices(self) -> tuple[np.ndarray, np.ndarray]:
        """False positive and false negative rates of the curve's corners."""
        steep = np.append(0.0, _meets(self.epsilons, self.deltas)[::-1])
        high = self.false_negative_rate(steep)
        return np.append(steep, high[::-1]), np.append(high, steep[::-1])

    def false_negative_rate(self, false_positive_rate: npt.ArrayLike) -> np.ndarray:
        """Return the least FNR at each FPR in [0, 1], elementwise."""
        rate = np.asarray(false_positive_rate, dtype=float)[..., None]
        if not np.all((rate >= 0) & (rate <= 1)):
            _check.fail("rates in [0, 1]", "false_positive_rate", false_positive_rate)
        with np.errstate(divide="ignore"):
            exponents = np.minimum(self.epsilons + np.log(rate), 700.0)
        left = 1 - self.deltas - np.exp(exponents)
        right = np.exp(-self.epsilons) * (1 - self.deltas - rate)
        return np.maximum(left, right).max(axis=-1).clip(min=0)

    def true_positive_rate(self, false_positive_rate: npt.ArrayLike) -> np.ndarray:
        """Return the largest TPR, 1 - FNR, at each FPR in [0, 1], elementwise."""
        return 1 - self.false_negative_rate(false_positive_rate)

    def precision(self, false_positive_rate: float, prior: float) -> float:
        """Return how sure a positive guess can be: the most of P(used | guessed used).

        Args:
          false_positive_rate: of the test, in (0, 1].
          prior: P(used) before anything was released, in (0, 1).
        """
        false = _check.probability("false_positive_rate", false_positive_rate)
        prior = _check.open_unit("prior", prior)
        true = float(self.true_positive_rate(false))
        return prior * true / (prior * true + (1 - prior) * false)


def trade_off_curve(
    event: dp_accounting.DpEvent,
    *,
    least_delta: float = _LEAST_DELTA,
    accountant: str = "exact",
    relation: events.Relation = events.Relation.ADD_OR_REMOVE_ONE,
) -> TradeOffCurve:
    """Return the trade-off curve of `event`.

    Args:
      event: as in `event_epsilon`.
      least_delta: in (0, 1): the curve ends at the epsilon of this delta; rates below
        about it are bounded by that one guarantee alone.
      accountant: "exact", "pld" or "rdp".
      relation: which data sets are neighbours.

    Returns:
      A curve of 65 tangents, at deltas that are spread evenly from the advantage down
      to a tenth of it, and in logarithms below.

    Raises:
      ValueError: a setting is out of range, or there is no such accountant.
      AccountingError: this accountant has no sound account of the event.

    Guarantee: no test that sees all releases has, at any false positive rate, a false
    negative rate below the curve.

    Example:
      >>> step = dp_accounting.PoissonSampledDpEvent(
      ...     0.01, dp_accounting.GaussianDpEvent(1.0)
      ... )
      >>> curve = trade_off_curve(dp_accounting.SelfComposedDpEvent(step, 1000))
      >>> curve.true_positive_rate([0.001, 0.01, 0.1]).round(4)
      array([0.0041, 0.0292, 0.1942])
      >>> round(curve.advantage, 4)
      0.161
    """
    least = _check.open_unit("least_delta", least_delta)
    options = {"accountant": accountant, "relation": relation}
    largest = float(accountants.event_delta(event, 0.0, **options))
    deltas = [largest]
    if least < largest:
        flat = largest * np.linspace(1, 0.1, _NUM_FLAT)[1:]
        deltas += [*flat[flat > least], *np.geomspace(flat[-1], least, _NUM_STEEP + 1)]
    points = {0.0: largest}
    for delta in deltas[1:]:
        epsilon = float(accountants.event_epsilon(event, delta, **options))
        if math.isfinite(epsilon):
            points[epsilon] = min(delta, points.get(epsilon, delta))
    return TradeOffCurve(*_needed(points))


def _needed(points: dict[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return, of pairs (epsilon, delta), those whose lines the curve touches.

    They are the corners of the pairs' lower convex hull, as points (e^epsilon, delta).
    """
    kept: list[tuple[float, float]] = []
    for point in sorted(points.items()):
        while len(kept) > 1 and not _convex(kept[-2], kept[-1], point):
            kept.pop()
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    epsilons, deltas = np.array(kept).T
    return epsilons, deltas


def _convex(*points: tuple[float, float]) -> bool:
    epsilons, deltas = np.array(points).T
    first, second = _meets(epsilons, deltas)
    return bool(first > second)


def _meets(epsilons: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """Return the FPR at which the lines of neighbouring pairs meet: (n - 1,).

    From delta_1 + e^epsilon_1 a = delta_2 + e^epsilon_2 a.
    """
    growth = -np.expm1(-np.diff(epsilons))
    return -np.diff(deltas) * np.exp(-epsilons[1:]) / growth
