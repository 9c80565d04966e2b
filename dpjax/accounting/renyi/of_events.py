"""Renyi divergences of what was released: Gaussian or not, sampled, selected.

Gaussian releases have those of this room; those of other events are dp_accounting's.
"""

import dataclasses
import functools
import math
import sys

import dp_accounting
import numpy as np
from dp_accounting import rdp

from dpjax import _check
from dpjax._events import RandomAllocationDpEvent
from dpjax.accounting import batches, events
from dpjax.accounting.epsilon import AccountingError
from dpjax.accounting.events import Event, Parts, Relation
from dpjax.accounting.laws.privacy_loss import SampledGaussian
from dpjax.accounting.laws.revealed import RevealedMixture
from dpjax.accounting.renyi import repeated, revealed, sampled_gaussian

ORDERS = 1 + np.geomspace(1e-3, 1e6, 37)
"""Where the search for an order begins: four to a decade of a - 1."""

_LIBRARY_EVENTS = (
    dp_accounting.LaplaceDpEvent,
    dp_accounting.ZCDpEvent,
)
"""Events beside the Gaussian ones whose count dp_accounting takes into account."""

_MIXTURE = dp_accounting.dp_event.MixtureOfGaussiansDpEvent
_SELECTION = dp_accounting.dp_event.RepeatAndSelectDpEvent

_LIBRARY_ROUNDING = 8e-15
"""Error of a divergence of dp_accounting, times (order - 1), in nats."""

_ROUNDING = 2.0**-50
"""Relative error of a bound of a sampled pure release."""


def divergences(parts: Parts, orders: np.ndarray, relation: Relation) -> np.ndarray:
    """Return the Renyi divergences of all `parts` together: (orders,).

    Under "replace one", the sum of the data moves by twice the clip norm; dp_accounting
    leaves that factor out, and has no sound account of anything but Gaussians there.

    Args:
      parts: what was released, from `events.take_apart`.
      orders: (orders,) real numbers above 1.
      relation: which data sets are neighbours.

    Raises:
      AccountingError: there is no sound Renyi account of a part under `relation`.
    """
    total = np.zeros(orders.size)
    pairs, counts = [], []
    for part, count in parts:
        pair = gaussian_pair(part, relation)
        if pair is None:
            total += count * _other_divergences(part, orders, relation)
        else:
            pairs.append(pair)
            counts.append(float(count))
    if not pairs:
        return total
    if orders is ORDERS:
        return total + counts @ np.stack([_first_divergences(pair) for pair in pairs])
    return total + counts @ sampled_gaussian.divergences(pairs, orders)


@functools.lru_cache(maxsize=4096)
def _first_divergences(pair: SampledGaussian) -> np.ndarray:
    return sampled_gaussian.divergences([pair], ORDERS)[0]


def gaussian_pair(part: Event, relation: Relation) -> SampledGaussian | None:
    """Return the output laws of a Gaussian release, plain or sampled, or None.

    One in a random step of many counts as plain.
    """
    replace_one = relation == Relation.REPLACE_ONE
    if isinstance(part, dp_accounting.GaussianDpEvent):
        return SampledGaussian(part.noise_multiplier, 1.0, replace_one)
    if isinstance(part, dp_accounting.PoissonSampledDpEvent) and isinstance(
        part.event, dp_accounting.GaussianDpEvent
    ):
        noise = part.event.noise_multiplier
        return SampledGaussian(noise, part.sampling_probability, replace_one)
    if isinstance(part, RandomAllocationDpEvent) and part.num_participations == 1:
        # Nothing is amplified here: the step might as well be known.
        return SampledGaussian(part.event.noise_multiplier, 1.0, replace_one)
    return None


def _other_divergences(
    part: Event, orders: np.ndarray, relation: Relation
) -> np.ndarray:
    if isinstance(part, _SELECTION):
        return _selection_divergences(part, orders, relation)
    laws = batches.laws(part, relation)
    if isinstance(part, _MIXTURE) and relation != Relation.REPLACE_ONE:
        laws = batches.mixture_laws(part)
    if isinstance(laws, RevealedMixture):
        return revealed.divergences(laws, orders)
    if _is_sampled_laplace(part) and relation != Relation.REPLACE_ONE:
        return _pure_divergences(part, orders)
    if relation == Relation.REPLACE_ONE or not isinstance(part, _LIBRARY_EVENTS):
        what = f"an event that the RDP accountant can account for under {relation.name}"
        _check.fail(what, "event", part, AccountingError)
    accountant = rdp.RdpAccountant(list(orders), relation)
    try:
        found = accountant.compose(part).rdp
    except events.REFUSALS as error:
        raise AccountingError(
            f"Expected an event that the RDP accountant supports, got event={part!r}: "
            f"{error}"
        ) from error
    if np.isnan(found).any():
        _check.fail("an event of numbers in range", "event", part, AccountingError)
    return np.maximum(found, 0.0) + _LIBRARY_ROUNDING / (orders - 1)


def _selection_divergences(
    part: dp_accounting.dp_event.RepeatAndSelectDpEvent,
    orders: np.ndarray,
    relation: Relation,
) -> np.ndarray:
    run = _Run(batches.rewritten(events.take_apart(part.event), relation), relation)
    return repeated.divergences(
        run.divergences, _on_grid(run), orders, mean=part.mean, shape=part.shape
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """One run of a selection; two are the same that read alike, to the last digit."""

    parts: Parts
    relation: Relation

    @functools.cached_property
    def text(self) -> str:
        with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
            return repr((self.parts, self.relation))

    def divergences(self, orders: np.ndarray) -> np.ndarray:
        return divergences(self.parts, orders, self.relation)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Run) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


@functools.lru_cache(maxsize=256)
def _on_grid(run: _Run) -> np.ndarray:
    return run.divergences(repeated.GRID)


def _is_sampled_laplace(part: Event) -> bool:
    return isinstance(part, dp_accounting.PoissonSampledDpEvent) and isinstance(
        part.event, dp_accounting.LaplaceDpEvent
    )


def _pure_divergences(
    part: dp_accounting.PoissonSampledDpEvent, orders: np.ndarray
) -> np.ndarray:
    """Return bounds that hold for any release of the same largest loss.

    Sampling at rate q makes of a largest loss e the one of log(1 + q (exp(e) - 1)), and
    a divergence of order a is at most e and at most a e^2 / 2 (Bun and Steinke 2016,
    Concentrated differential privacy, proposition 3.3).
    """
    noise = part.event.noise_multiplier
    if not 0 < noise < math.inf:
        _check.fail("noise in (0, inf)", "event", part, AccountingError)
    loss = 1 / noise
    log_excess = loss + math.log(-math.expm1(-loss))
    sampled = np.logaddexp(0.0, math.log(part.sampling_probability) + log_excess)
    return np.minimum(sampled, orders * min(sampled, 1e100) ** 2 / 2) * (1 + _ROUNDING)
