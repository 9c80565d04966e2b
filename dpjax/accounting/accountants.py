"""The accountants by name, and epsilon from an event or from plain settings."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import dp_accounting
import numpy as np

from dpjax import _check
from dpjax.accounting import batches, certified, events, exact, pld, rdp
from dpjax.accounting.epsilon import Delta, Epsilon


class Accountant(NamedTuple):
    """What an accountant must offer.

    Attributes:
      epsilon: `(parts, delta, relation) -> Epsilon`. The parts, of `events.take_apart`,
        are not empty, none of them is `NON_PRIVATE`, and delta is in (0, 1).
      curve: `(parts, delta, relation, steps) -> epsilons`: the same after each number
        of steps, one step releasing the parts: (steps,), and 0 after 0 steps.
      delta: `(parts, epsilon, relation) -> Delta`, with an epsilon of at least 0.
    """

    epsilon: Callable[[events.Parts, float, events.Relation], Epsilon]
    curve: Callable[[events.Parts, float, events.Relation, Sequence[int]], np.ndarray]
    delta: Callable[[events.Parts, float, events.Relation], Delta]


_ACCOUNTANTS = {
    "exact": Accountant(exact.epsilon, exact.curve, exact.delta),
    "pld": Accountant(pld.epsilon, pld.curve, pld.delta),
    "rdp": Accountant(rdp.epsilon, rdp.curve, exact.rdp_delta),
    "certified": Accountant(certified.epsilon, certified.curve, certified.delta),
}

NAMES = ("exact", "pld", "rdp")
"""The accountants that are reported, in this order: the exact one first."""


def find(name: str) -> Accountant:
    """Return the accountant called `name`; a ValueError lists those that exist."""
    return _ACCOUNTANTS[_check.choice("accountant", name, tuple(_ACCOUNTANTS))]


def event_epsilon(
    event: dp_accounting.DpEvent,
    delta: float,
    *,
    accountant: str = "exact",
    relation: events.Relation = events.Relation.ADD_OR_REMOVE_ONE,
) -> Epsilon:
    """Return the epsilon that `event` has at `delta`.

    | event                                   | epsilon          |
    | --------------------------------------- | ---------------- |
    | nothing released (0 steps, sampling 0)  | 0                |
    | something released without noise        | infinite         |
    | any other, at delta = 0                 | infinite         |

    Args:
      event: a `dp_accounting.DpEvent`; compositions of Gaussian releases, plain or
        Poisson sampled, are accounted for by every accountant.
      delta: in [0, 1).
      accountant: "exact" (the truth, with an error bar), "pld" (close to it), "rdp"
        (quick, looser) or "certified" (close to it, with a proof).
      relation: which data sets are neighbours.

    Returns:
      Epsilon in nats, with `.error` and `.method`.

    Raises:
      ValueError: `delta` is out of range, or there is no such accountant.
      AccountingError: this accountant has no sound account of the event.

    Guarantee: the mechanism that `event` describes is (epsilon, delta)-differentially
    private under `relation`: no accountant errs downward.

    Example:
      >>> step = dp_accounting.PoissonSampledDpEvent(
      ...     0.01, dp_accounting.GaussianDpEvent(1.0)
      ... )
      >>> event = dp_accounting.SelfComposedDpEvent(step, 1000)
      >>> round(event_epsilon(event, 1e-5), 3)
      1.828
      >>> round(event_epsilon(event, 1e-5, accountant="rdp"), 3)
      2.101
    """
    method = find(accountant)
    delta = _checked_delta(delta)
    parts = batches.rewritten(events.take_apart(event), relation)
    if not parts:
        return Epsilon(0.0, error=0.0, method=accountant)
    if delta == 0 or any(part == events.NON_PRIVATE for part, _ in parts):
        return Epsilon(math.inf, error=0.0, method=accountant)
    return method.epsilon(parts, delta, relation)


def event_delta(
    event: dp_accounting.DpEvent,
    epsilon: float,
    *,
    accountant: str = "exact",
    relation: events.Relation = events.Relation.ADD_OR_REMOVE_ONE,
) -> Delta:
    """Return the delta that `event` has at `epsilon`.

    Args:
      event: as in `event_epsilon`.
      epsilon: in nats, at least 0.
      accountant: "exact", "pld" or "rdp".
      relation: which data sets are neighbours.

    Returns:
      Delta, with its logarithm `.log`, `.error` (of the logarithm) and `.method`: 0
      where nothing was released, 1 where something was without noise.

    Raises:
      ValueError: `epsilon` is out of range, or there is no such accountant.
      AccountingError: this accountant has no sound account of the event.

    Guarantee: `event_epsilon`'s.

    Example:
      >>> step = dp_accounting.PoissonSampledDpEvent(
      ...     0.01, dp_accounting.GaussianDpEvent(1.0)
      ... )
      >>> event = dp_accounting.SelfComposedDpEvent(step, 1000)
      >>> delta = event_delta(event, 1.828236666)
      >>> f"{delta:.6e}", round(delta.log, 6)
      ('1.000000e-05', -11.512925)
    """
    method = find(accountant)
    epsilon = _check.non_negative("epsilon", epsilon)
    parts = batches.rewritten(events.take_apart(event), relation)
    if not parts:
        return Delta(-math.inf, error=0.0, method=accountant)
    if any(part == events.NON_PRIVATE for part, _ in parts):
        return Delta(0.0, error=0.0, method=accountant)
    return method.delta(parts, epsilon, relation)


def exact_epsilon(
    *,
    noise_multiplier: float,
    sampling_prob: float,
    num_steps: int,
    delta: float,
    certified: bool = False,
) -> Epsilon:
    """Return the epsilon of Poisson-sampled Gaussian steps, as it is.

    The other arguments and the guarantee are those of `pld_epsilon`; `.error` is far
    smaller: an estimate, of about 1e-12.

    Args:
      noise_multiplier: noise standard deviation in clip norms, at least 0.
      sampling_prob: probability that an example enters a step, in (0, 1].
      num_steps: steps taken.
      delta: in [0, 1).
      certified: return an upper bound with a proof instead, of the accountant of that
        name.

    Example:
      >>> epsilon = exact_epsilon(
      ...     noise_multiplier=1.0, sampling_prob=0.004, num_steps=15000, delta=1e-5
      ... )
      >>> round(epsilon, 9), epsilon.method
      (2.719356925, 'exact')
    """
    event = dpsgd_event(noise_multiplier, sampling_prob, num_steps)
    name = "certified" if certified else "exact"
    return event_epsilon(event, delta, accountant=name)


def pld_epsilon(
    *, noise_multiplier: float, sampling_prob: float, num_steps: int, delta: float
) -> Epsilon:
    """Return the epsilon of Poisson-sampled Gaussian steps, close to the truth.

    Neighbours differ by one example added, removed or zeroed out.

    Args:
      noise_multiplier: noise standard deviation in clip norms, at least 0.
      sampling_prob: probability that an example enters a step, in (0, 1].
      num_steps: steps taken.
      delta: in [0, 1).

    Returns:
      An upper bound, in nats; `.error` says by how much it may exceed the truth.

    Raises:
      ValueError: a setting is out of range.

    Guarantee: `event_epsilon`'s.

    Example:
      >>> epsilon = pld_epsilon(
      ...     noise_multiplier=1.0, sampling_prob=0.004, num_steps=15000, delta=1e-5
      ... )
      >>> round(epsilon, 3), epsilon.method
      (2.719, 'pld')
    """
    event = dpsgd_event(noise_multiplier, sampling_prob, num_steps)
    return event_epsilon(event, delta, accountant="pld")


def rdp_epsilon(
    *, noise_multiplier: float, sampling_prob: float, num_steps: int, delta: float
) -> Epsilon:
    """Return the epsilon of Poisson-sampled Gaussian steps, by Renyi divergences.

    The arguments and the guarantee are those of `pld_epsilon`; the number is larger.

    Example:
      >>> epsilon = rdp_epsilon(
      ...     noise_multiplier=1.0, sampling_prob=0.004, num_steps=15000, delta=1e-5
      ... )
      >>> round(epsilon, 3), epsilon.method
      (2.966, 'rdp')
    """
    event = dpsgd_event(noise_multiplier, sampling_prob, num_steps)
    return event_epsilon(event, delta, accountant="rdp")


def dpsgd_event(
    noise_multiplier: float, sampling_prob: float, num_steps: int
) -> dp_accounting.DpEvent:
    """Return the event of `num_steps` Poisson-sampled Gaussian steps, checked."""
    noise = _check.non_negative("noise_multiplier", noise_multiplier)
    rate = _check.probability("sampling_prob", sampling_prob)
    steps = _check.integer("num_steps", num_steps, minimum=0)
    step = dp_accounting.PoissonSampledDpEvent(
        rate, dp_accounting.GaussianDpEvent(noise)
    )
    return dp_accounting.SelfComposedDpEvent(step, steps)


def _checked_delta(delta: float) -> float:
    number = _check.non_negative("delta", delta)
    if number >= 1:
        _check.fail("a number in [0, 1)", "delta", number)
    return number
