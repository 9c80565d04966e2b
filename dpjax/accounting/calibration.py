"""Settings that spend a given epsilon: as much as possible, and never more."""

from collections.abc import Callable

import dp_accounting

from dpjax import _check
from dpjax.accounting import accountants, events, target_search


def calibrate_event(
    make_event: Callable[[float], dp_accounting.DpEvent],
    *,
    target_epsilon: float,
    delta: float,
    accountant: str = "exact",
    relation: events.Relation = events.Relation.ADD_OR_REMOVE_ONE,
) -> float:
    """Return the least noise multiplier with which an event stays within a target.

    Args:
      make_event: gives the event of a noise multiplier; more noise must not cost more.
      target_epsilon: in nats, above 0.
      delta: in (0, 1).
      accountant: "exact", "pld" or "rdp".
      relation: which data sets are neighbours.

    Returns:
      A noise multiplier at most 1e-5 (1e-9 by the exact accountant), relatively, above
      the least one.

    Raises:
      ValueError: a setting is out of range, or there is no such accountant.
      AccountingError: no noise multiplier between 2^-10 and 2^40 meets the target, or
        all of them do; the message has the nearest epsilon.

    Guarantee: the epsilon of the event at the noise multiplier returned has been
    evaluated, and is at most `target_epsilon`.

    Example:
      >>> noise = calibrate_event(
      ...     dp_accounting.GaussianDpEvent, target_epsilon=1.0, delta=1e-6
      ... )
      >>> round(noise, 3)
      4.225
    """
    target = _check.positive("target_epsilon", target_epsilon)
    delta = _check.open_unit("delta", delta)

    def gap(noise: float) -> float:
        event = make_event(noise)
        spent = accountants.event_epsilon(
            event, delta, accountant=accountant, relation=relation
        )
        return target_search.log_ratio(spent, target)

    within, beyond = target_search.bracket_noise(gap, target)
    return target_search.close_in(
        gap, within, beyond, target_search.nearer(accountant, -1)
    )


def calibrate_noise_multiplier(
    *,
    target_epsilon: float,
    delta: float,
    sampling_prob: float,
    num_steps: int,
    accountant: str = "exact",
) -> float:
    """Return the least noise multiplier of a run that stays within a target.

    Args:
      target_epsilon: in nats, above 0.
      delta: in (0, 1).
      sampling_prob: probability that an example enters a step, in (0, 1].
      num_steps: steps of the run, at least 1.
      accountant: "exact", "pld" or "rdp".

    Returns:
      A noise multiplier at most 1e-5 (1e-9 by the exact accountant), relatively, above
      the least one.

    Raises:
      ValueError, AccountingError: as `calibrate_event`.

    Guarantee: `calibrate_event`'s; neighbours differ by one example added, removed or
    zeroed out.

    Example:
      >>> noise = calibrate_noise_multiplier(
      ...     target_epsilon=3.0, delta=1e-4, sampling_prob=0.25, num_steps=120
      ... )
      >>> round(noise, 3)
      3.498
    """
    _check.integer("num_steps", num_steps, minimum=1)
    return calibrate_event(
        lambda noise: accountants.dpsgd_event(noise, sampling_prob, num_steps),
        target_epsilon=target_epsilon,
        delta=delta,
        accountant=accountant,
    )


def calibrate_num_steps(
    *,
    target_epsilon: float,
    delta: float,
    noise_multiplier: float,
    sampling_prob: float,
    accountant: str = "exact",
) -> int:
    """Return the largest number of steps that stays within a target.

    Args:
      target_epsilon: in nats, above 0.
      delta: in (0, 1).
      noise_multiplier: noise standard deviation in clip norms, at least 0.
      sampling_prob: probability that an example enters a step, in (0, 1].
      accountant: "exact", "pld" or "rdp".

    Raises:
      ValueError: a setting is out of range, or there is no such accountant.
      AccountingError: not even one step meets the target, or 2^33 steps do; the message
        has the nearest epsilon.

    Guarantee: the epsilon of the number returned has been evaluated and is at most
    `target_epsilon`; that of one step more is not.

    Example:
      >>> calibrate_num_steps(
      ...     target_epsilon=3.0, delta=1e-4, noise_multiplier=4.0, sampling_prob=0.25
      ... )
      160
    """
    target = _check.positive("target_epsilon", target_epsilon)
    delta = _check.open_unit("delta", delta)

    def gap(steps: float) -> float:
        event = accountants.dpsgd_event(noise_multiplier, sampling_prob, int(steps))
        spent = accountants.event_epsilon(event, delta, accountant=accountant)
        return target_search.log_ratio(spent, target)

    within, beyond = target_search.bracket_steps(gap, target)
    return int(target_search.close_in(gap, within, beyond, target_search.between_steps))


def calibrate_sampling_prob(
    *,
    target_epsilon: float,
    delta: float,
    noise_multiplier: float,
    num_steps: int,
    num_examples: int | None = None,
    accountant: str = "exact",
) -> float:
    """Return the largest sampling probability of a run that stays within a target.

    Args:
      target_epsilon: in nats, above 0.
      delta: in (0, 1).
      noise_multiplier: noise standard deviation in clip norms, at least 0.
      num_steps: steps of the run, at least 1.
      num_examples: size of the data set; where it is given, the result is rounded down
        to an expected batch of whole examples, of `round(result * num_examples)`.
      accountant: "exact", "pld" or "rdp".

    Returns:
      A probability at most 1e-5 (1e-9 by the exact accountant), relatively, below the
      largest one; 1 where that meets the target.

    Raises:
      ValueError: a setting is out of range, or there is no such accountant.
      AccountingError: the least probability (2^-50, or one example in `num_examples`)
        exceeds the target; the message has its epsilon.

    Guarantee: the epsilon of the probability returned has been evaluated, and is at
    most `target_epsilon`.

    Example:
      >>> rate = calibrate_sampling_prob(
      ...     target_epsilon=3.0, delta=1e-4, noise_multiplier=3.498, num_steps=120
      ... )
      >>> round(rate, 3)
      0.25
    """
    target = _check.positive("target_epsilon", target_epsilon)
    delta = _check.open_unit("delta", delta)
    _check.integer("num_steps", num_steps, minimum=1)

    def gap(rate: float) -> float:
        event = accountants.dpsgd_event(noise_multiplier, rate, num_steps)
        spent = accountants.event_epsilon(event, delta, accountant=accountant)
        return target_search.log_ratio(spent, target)

    if num_examples is not None:
        size = _check.integer("num_examples", num_examples, minimum=1)
        return (
            target_search.largest_batch(lambda batch: gap(batch / size), size, target)
            / size
        )
    largest = (1.0, gap(1.0))
    if largest[1] <= 0:
        return 1.0
    within = target_search.bracket_rate(gap, largest, target)
    beyond = (min(1.0, 8 * within[0]), gap(min(1.0, 8 * within[0])))
    return target_search.close_in(
        gap, within, beyond, target_search.nearer(accountant, 1)
    )
