"""Epsilon over the steps of a run."""

import itertools
import math
from collections.abc import Sequence

import dp_accounting
import numpy as np

from dpjax import _check
from dpjax.accounting import accountants, batches, events


def epsilon_curve(
    *,
    noise_multiplier: float,
    sampling_prob: float,
    steps: Sequence[int],
    delta: float,
    accountant: str = "exact",
) -> np.ndarray:
    """Return the epsilon of Poisson-sampled Gaussian steps after each of `steps`.

    The step is accounted for once, so that a curve costs little more than a point.

    Args:
      noise_multiplier: noise standard deviation in clip norms, at least 0.
      sampling_prob: probability that an example enters a step, in (0, 1].
      steps: (n,) numbers of steps, at least 0, in increasing order.
      delta: in (0, 1).
      accountant: "exact", "pld" or "rdp".

    Returns:
      (n,) epsilons in nats, float64, never decreasing; 0 after 0 steps, infinite
      without noise.

    Raises:
      ValueError: a setting is out of range, or there is no such accountant.
      AccountingError: this accountant has no sound number.

    Guarantee: every entry is an upper bound, as in `event_epsilon`.

    Example:
      >>> epsilon_curve(
      ...     noise_multiplier=1.0, sampling_prob=0.01, steps=[0, 10, 1000], delta=1e-5
      ... ).round(2)
      array([0.  , 0.38, 1.83])
    """
    event = accountants.dpsgd_event(noise_multiplier, sampling_prob, 1)
    return event_curve(event, delta, steps=steps, accountant=accountant)


def event_curve(
    event: dp_accounting.DpEvent,
    delta: float,
    *,
    steps: Sequence[int],
    accountant: str = "exact",
    relation: events.Relation = events.Relation.ADD_OR_REMOVE_ONE,
) -> np.ndarray:
    """Return the epsilon of an event that comes again and again.

    The event is accounted for once, so that a curve costs little more than a point.

    Args:
      event: what one step releases, as in `event_epsilon`.
      delta: in (0, 1).
      steps: (n,) numbers of steps, at least 0, in increasing order.
      accountant: "exact", "pld" or "rdp".
      relation: which data sets are neighbours.

    Returns, Raises, Guarantee: those of `epsilon_curve`.

    Example:
      >>> event_curve(dp_accounting.GaussianDpEvent(5.0), 1e-5, steps=[1, 4]).round(2)
      array([0.73, 1.55])
    """
    method = accountants.find(accountant)
    delta = _check.open_unit("delta", delta)
    numbers = [_check.integer("steps", number, minimum=0) for number in steps]
    if any(after < before for before, after in itertools.pairwise(numbers)):
        _check.fail("numbers in increasing order", "steps", steps)
    parts = batches.rewritten(events.take_apart(event), relation)
    if events.NON_PRIVATE in [part for part, _ in parts]:
        return np.array([math.inf if number else 0.0 for number in numbers])
    if not any(numbers) or not parts:
        return np.zeros(len(numbers))
    curve = method.curve(parts, delta, relation, numbers)
    return np.maximum.accumulate(curve)
