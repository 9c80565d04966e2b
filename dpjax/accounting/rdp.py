"""The Renyi accountant: an upper bound for every event, quick and a little loose.

The Renyi divergence of order a adds up under composition, and its total R(a) gives

    epsilon = min over a of R(a) + log(1 - 1/a) - log(a delta) / (a - 1)

The orders and the divergences are those of dp_accounting.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence

import dp_accounting
import numpy as np
from absl import logging as absl_logging
from dp_accounting import rdp

from dpjax import _check
from dpjax.accounting.epsilon import AccountingError, Epsilon
from dpjax.accounting.events import Event, Parts, Relation

_ADDITIVE = (
    dp_accounting.LaplaceDpEvent,
    dp_accounting.SingleEpochTreeAggregationDpEvent,
    dp_accounting.ZCDpEvent,
)
"""Events beside the Gaussian ones whose count dp_accounting takes into account."""

_ROUNDING = 1e-14
"""Error of one divergence, in nats."""


def epsilon(parts: Parts, delta: float, relation: Relation) -> Epsilon:
    """Return an upper bound on the epsilon of `parts` at `delta`.

    Under "replace one", the sum of the data moves by twice the clip norm, so a plain
    Gaussian release counts with half its noise multiplier. dp_accounting's own Renyi
    accountant leaves that factor out, and has no sound account of anything else there.

    Args:
      parts: what was released, from `events.take_apart`.
      delta: in (0, 1).
      relation: which data sets are neighbours.

    Raises:
      AccountingError: there is no sound Renyi account of a part under `relation`.

    References:
      Mironov (2017), Renyi differential privacy; Canonne, Kamath and Steinke (2020),
      The discrete Gaussian for differential privacy, proposition 12.
    """
    total = np.zeros(len(_orders()))
    for part, count in parts:
        total += count * _divergences(part, relation)
    return Epsilon(_convert(total, delta), method="rdp")


def curve(
    parts: Parts, delta: float, relation: Relation, steps: Sequence[int]
) -> np.ndarray:
    """Return epsilon after each number of `steps`, one step releasing `parts`."""
    step = np.zeros(len(_orders()))
    for part, count in parts:
        step += count * _divergences(part, relation)
    epsilons = [_convert(number * step, delta) if number else 0.0 for number in steps]
    return np.array(epsilons)


def _convert(divergences: np.ndarray, delta: float) -> float:
    value, _ = rdp.compute_epsilon(_orders(), divergences, delta)
    return float(value)


def _orders() -> list[float]:
    return rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS


def _divergences(part: Event, relation: Relation) -> np.ndarray:
    """Return the Renyi divergences of one `part` at all orders: (orders,)."""
    gaussian = isinstance(part, dp_accounting.GaussianDpEvent)
    if relation == Relation.REPLACE_ONE and gaussian:
        halved = dp_accounting.GaussianDpEvent(part.noise_multiplier / 2)
        return _gaussian_divergences(halved)
    sampled = isinstance(part, dp_accounting.PoissonSampledDpEvent) and isinstance(
        part.event, dp_accounting.GaussianDpEvent
    )
    if relation == Relation.REPLACE_ONE or not (
        gaussian or sampled or isinstance(part, _ADDITIVE)
    ):
        what = f"an event that the RDP accountant can account for under {relation.name}"
        _check.fail(what, "event", part, AccountingError)
    if gaussian or sampled:
        return _gaussian_divergences(part)
    return _library_divergences(part, relation)


@functools.lru_cache(maxsize=4096)
def _gaussian_divergences(part: Event) -> np.ndarray:
    return _library_divergences(part, Relation.ADD_OR_REMOVE_ONE)


def _library_divergences(part: Event, relation: Relation) -> np.ndarray:
    accountant = rdp.RdpAccountant(_orders(), relation)
    try:
        with _without_lost_orders():
            divergences = accountant.compose(part).rdp
    except dp_accounting.UnsupportedEventError as error:
        raise AccountingError(
            f"Expected an event that the RDP accountant supports, got event={part!r}: "
            f"{error}"
        ) from error
    # Tiny divergences are differences of numbers near 1, and may come out negative.
    return np.maximum(divergences, 0.0) + _ROUNDING


@contextlib.contextmanager
def _without_lost_orders() -> Iterator[None]:
    """Keep one line a lost order off the console.

    The series for a fractional order may not converge; the library then says so and
    takes the order for infinite, which only makes the bound larger.
    """

    def keep(record: logging.LogRecord) -> bool:
        return "_compute_log_a_frac" not in str(record.msg)

    logger = absl_logging.get_absl_logger()
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
