"""An event in the other currencies of the field: Gaussian DP, zCDP and tCDP."""

import math

import dp_accounting
import numpy as np
from scipy import special

from dpjax import _check
from dpjax.accounting import events, tradeoff
from dpjax.accounting.epsilon import AccountingError
from dpjax.accounting.laws.privacy_loss import SampledGaussian
from dpjax.accounting.renyi import of_events

_SMALLEST_POWER = 1e-6
_NUM_ORDERS = 512


def gaussian_dp(
    event: dp_accounting.DpEvent,
    *,
    regret: float = 0.0,
    accountant: str = "exact",
    relation: events.Relation = events.Relation.ADD_OR_REMOVE_ONE,
) -> float:
    """Return the least mu such that `event` is mu-Gaussian DP, up to a regret.

    With f the trade-off curve of the event and G that of N(0, 1) against N(mu, 1), it
    is the least mu with f >= G - regret. Without regret, sampling does not help under
    add-or-remove: however rarely an example is used, far in the tail a step is as
    telling as one that used it for sure. So mu is that of the same releases without
    sampling (under replace-one, a bound but not the least), and a regret, of the size
    of a delta, is what lets amplification show.

    | event                     | regret = 0              | regret > 0                 |
    | ------------------------- | ----------------------- | -------------------------- |
    | plain Gaussian releases   | exact                   | the same                   |
    | Gaussian, some sampled    | as if nothing were      | from 65 tangents of f      |
    | others                    | an error                | from 65 tangents of f      |

    This is no limit theorem: the CLT's mu of such a run is smaller, and no bound.

    Args:
      event: as in `event_epsilon`.
      regret: in [0, 1): by how much the curve may lie below the Gaussian one.
      accountant: "exact", "pld" or "rdp".
      relation: which data sets are neighbours.

    Returns:
      mu; 0 when nothing was released, infinite without noise.

    Raises:
      ValueError: `regret` is out of range, or there is no such accountant.
      AccountingError: this accountant has no sound account of the event, or without
        regret no mu is known.

    Guarantee: f >= G - regret at every false positive rate.

    Example:
      >>> step = dp_accounting.PoissonSampledDpEvent(
      ...     0.004, dp_accounting.GaussianDpEvent(1.0)
      ... )
      >>> event = dp_accounting.SelfComposedDpEvent(step, 15000)
      >>> round(gaussian_dp(event, regret=1e-5), 2), round(gaussian_dp(event), 2)
      (0.65, 122.47)

    References:
      Dong, Roth and Su (2022), Gaussian differential privacy; Gomez, Kulynych, Kaissis
      et al. (2025), (epsilon, delta) considered harmful: Gaussian DP with regret.
    """
    regret = _check.non_negative("regret", regret)
    if regret >= 1:
        _check.fail("a number in [0, 1)", "regret", regret)
    parts = events.take_apart(event)
    if not parts:
        return 0.0
    if any(part == events.NON_PRIVATE for part, _ in parts):
        return math.inf
    pairs = [of_events.gaussian_pair(part, relation) for part, _ in parts]
    plain = all(pair is not None and pair.sampling_prob == 1 for pair in pairs)
    if regret and not plain:
        curve = tradeoff.trade_off_curve(
            event, least_delta=regret, accountant=accountant, relation=relation
        )
        return _least_mu(curve, regret)
    counts = [count for _, count in parts]
    if None in pairs:
        what = "Gaussian releases, plain or Poisson sampled, or a regret above 0"
        _check.fail(what, "event", event, AccountingError)
    return math.sqrt(2 * _gaussian_rho([pair for pair in pairs if pair], counts))


def zero_concentrated_dp(
    event: dp_accounting.DpEvent,
    *,
    relation: events.Relation = events.Relation.ADD_OR_REMOVE_ONE,
) -> float:
    """Return a rho such that `event` is rho-zCDP: R(a) <= rho a for all orders a > 1.

    For Gaussian releases under add-or-remove it is the least one, sampled or not:
    R(a) / a of a sampled release stays below 1 / (2 s^2), its value without sampling,
    but tends to it as a grows. Amplification shows in `truncated_cdp` only. When an
    example is replaced, the limit is 1 / (2 s^2) too, not the 2 / s^2 without sampling.

    Args:
      event: a composition of Gaussian releases, plain or Poisson sampled, of
        `ZCDpEvent`s and, under add-or-remove, of Laplace releases (e^2 / 2 each, with
        their pure epsilon e).
      relation: which data sets are neighbours.

    Returns:
      rho; 0 when nothing was released, infinite without noise.

    Raises:
      AccountingError: no finite rho is known for a part of the event.

    Guarantee: R(a) <= rho a for all real a > 1.

    Example:
      >>> zero_concentrated_dp(dp_accounting.GaussianDpEvent(2.0))
      0.125

    References:
      Bun and Steinke (2016), Concentrated differential privacy.
    """
    rho = 0.0
    for part, count in events.take_apart(event):
        if part == events.NON_PRIVATE:
            return math.inf
        pair = of_events.gaussian_pair(part, relation)
        if pair is not None and pair.replace_one and pair.sampling_prob < 1:
            rho += count * _replaced_rho(part, pair)
        elif pair is not None:
            rho += _gaussian_rho([pair], [count])
        elif relation == events.Relation.REPLACE_ONE:
            _refuse(part, relation)
        elif isinstance(part, dp_accounting.ZCDpEvent):
            rho += count * (part.rho + part.xi)
        elif isinstance(part, dp_accounting.LaplaceDpEvent):
            rho += count * 0.5 / part.noise_multiplier**2
        else:
            _refuse(part, relation)
    return rho


def truncated_cdp(
    event: dp_accounting.DpEvent,
    max_order: float,
    *,
    relation: events.Relation = events.Relation.ADD_OR_REMOVE_ONE,
) -> float:
    """Return the least rho with R(a) <= rho a for all orders a in (1, max_order].

    That is (rho, max_order)-truncated concentrated DP. Between the orders that are
    evaluated, (a - 1) R(a) is convex, hence below its chords: the bound holds for all.

    Args:
      event: what the RDP accountant accounts for.
      max_order: above 1 + 1e-6.
      relation: which data sets are neighbours.

    Returns:
      rho, at most about one part in 1e3 above the least one.

    Raises:
      AccountingError: there is no sound Renyi account of the event.

    Example:
      >>> step = dp_accounting.PoissonSampledDpEvent(
      ...     0.01, dp_accounting.GaussianDpEvent(1.0)
      ... )
      >>> [round(truncated_cdp(step, order), 6) for order in (2.0, 10.0, 100.0)]
      [8.6e-05, 0.003827, 0.453483]

    References:
      Bun, Dwork, Rothblum and Steinke (2018), Composable and versatile privacy via
      truncated CDP.
    """
    largest = _check.real("max_order", max_order) - 1
    if largest <= _SMALLEST_POWER:
        _check.fail(f"an order > 1 + {_SMALLEST_POWER}", "max_order", max_order)
    parts = events.take_apart(event)
    if any(part == events.NON_PRIVATE for part, _ in parts):
        return math.inf
    powers = np.geomspace(_SMALLEST_POWER, largest, _NUM_ORDERS)
    divergences = of_events.divergences(parts, 1 + powers, relation)
    return max(float(divergences[0]), _chords_maximum(powers, powers * divergences))


def _chords_maximum(powers: np.ndarray, moments: np.ndarray) -> float:
    """Return the largest of chord(c) / (c (c + 1)), over all chords of a convex curve.

    On a chord k + m c, with k <= 0, that quotient is largest where
    m c^2 + 2 k c + k = 0, or at an end.
    """
    slope = np.diff(moments) / np.diff(powers)
    rest = np.maximum(slope * powers[:-1] - moments[:-1], 0.0)
    root = np.sqrt(rest * rest + rest * slope)
    with np.errstate(invalid="ignore"):
        peak = np.nan_to_num((rest + root) / slope)
    peak = np.clip(peak, powers[:-1], powers[1:])
    return float(np.max((slope * peak - rest) / (peak * (peak + 1))))


def _gaussian_rho(pairs: list[SampledGaussian], counts: list[int]) -> float:
    """Return half the squared mu of Gaussian releases, as if nothing were sampled."""
    return sum(
        count * (2.0 if pair.replace_one else 0.5) / pair.noise_multiplier**2
        for pair, count in zip(pairs, counts, strict=True)
    )


def _replaced_rho(part: events.Event, pair: SampledGaussian) -> float:
    """Return sup R(a) / a of a sampled release when an example is replaced.

    Q is at least (1 - q) N(0, s^2), so R(a) <= a / (2 s^2) - log(1 - q): what orders
    beyond the last one that is evaluated may add to their limit, 1 / (2 s^2).
    """
    largest = float(of_events.ORDERS[-1])
    evaluated = truncated_cdp(part, largest, relation=events.Relation.REPLACE_ONE)
    beyond = 0.5 / pair.noise_multiplier**2 - math.log1p(-pair.sampling_prob) / largest
    return min(2 / pair.noise_multiplier**2, max(evaluated, beyond))


def _least_mu(curve: tradeoff.TradeOffCurve, regret: float) -> float:
    """Return the least mu whose Gaussian curve, less `regret`, lies below `curve`.

    On a straight piece, a convex curve is largest, relatively to it, at one of the
    ends: what holds at the corners holds everywhere.
    """
    false_positive, false_negative = curve.vertices
    allowed = np.minimum(false_negative + regret, 1.0)
    with np.errstate(invalid="ignore"):
        needed = -special.ndtri(false_positive) - special.ndtri(allowed)
    return max(0.0, float(np.nanmax(needed)))


def _refuse(part: events.Event, relation: events.Relation) -> None:
    what = f"an event of finite zCDP under {relation.name}"
    _check.fail(what, "event", part, AccountingError)
