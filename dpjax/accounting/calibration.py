"""Settings that spend a given epsilon: as much as possible, and never more."""

import math
from collections.abc import Callable

import dp_accounting

from dpjax import _check
from dpjax.accounting import accountants, events
from dpjax.accounting.epsilon import AccountingError

_LEAST_NOISE = 2.0**-10
_MOST_NOISE = 2.0**40
_MOST_STEPS = 2**33
_LEAST_RATE = 2.0**-50

_PRECISIONS = {"exact": 1e-9}
_PRECISION = 1e-5
"""How close settings come, relatively, by accountant."""

_Point = tuple[float, float]
"""A setting, and the logarithm of its epsilon over the target."""


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
        return _log_ratio(spent, target)

    within, beyond = _bracket_noise(gap, target)
    return _close_in(gap, within, beyond, _nearer(accountant, -1))


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
        return _log_ratio(spent, target)

    within, beyond = _bracket_steps(gap, target)
    return int(_close_in(gap, within, beyond, _between_steps))


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
        return _log_ratio(spent, target)

    if num_examples is not None:
        size = _check.integer("num_examples", num_examples, minimum=1)
        return _largest_batch(lambda batch: gap(batch / size), size, target) / size
    largest = (1.0, gap(1.0))
    if largest[1] <= 0:
        return 1.0
    within = _bracket_rate(gap, largest, target)
    beyond = (min(1.0, 8 * within[0]), gap(min(1.0, 8 * within[0])))
    return _close_in(gap, within, beyond, _nearer(accountant, 1))


def _largest_batch(gap: Callable[[float], float], size: int, target: float) -> float:
    """Return the largest batch of whole examples within the target."""
    within, beyond = (1.0, gap(1.0)), (float(size), gap(float(size)))
    if beyond[1] <= 0:
        return float(size)
    if within[1] > 0:
        raise _impossible("least", within, "a batch of one example", target)
    return _close_in(gap, within, beyond, _between_steps)


def _bracket_rate(
    gap: Callable[[float], float], beyond: _Point, target: float
) -> _Point:
    """Return the largest power of 1/8 within the target."""
    here = beyond
    while here[1] > 0:
        rate = here[0] / 8
        if rate < _LEAST_RATE:
            raise _impossible("least", here, f"sampling probability {here[0]}", target)
        here = (rate, gap(rate))
    return here


def _log_ratio(spent: float, target: float) -> float:
    """Return log(spent / target): at most 0 exactly where the target is kept."""
    if spent <= target:
        return min(0.0, math.log(spent / target)) if spent > 0 else -math.inf
    return max(math.log(spent / target), math.ulp(0.0))


def _bracket_noise(
    gap: Callable[[float], float], target: float
) -> tuple[_Point, _Point]:
    """Return the nearest powers of 4 (or the ends) within and beyond the target."""
    noise, growth = 1.0, 4.0
    here = (noise, gap(noise))
    inside = here[1] <= 0
    while True:
        noise = here[0] / growth if inside else here[0] * growth
        if not _LEAST_NOISE <= noise <= _MOST_NOISE:
            break
        there = (noise, gap(noise))
        if (there[1] <= 0) != inside:
            return (here, there) if inside else (there, here)
        here = there
    raise _impossible(
        "most" if inside else "least", here, f"noise multiplier {here[0]}", target
    )


def _bracket_steps(
    gap: Callable[[float], float], target: float
) -> tuple[_Point, _Point]:
    """Return numbers of steps within and beyond the target."""
    here = (1.0, gap(1.0))
    if here[1] > 0:
        raise _impossible("least", here, "one step", target)
    while here[0] < _MOST_STEPS:
        steps = min(8 * here[0], _MOST_STEPS)
        there = (steps, gap(steps))
        if there[1] > 0:
            return here, there
        here = there
    raise _impossible("most", here, "2^33 steps", target)


def _impossible(
    end: str, nearest: _Point, setting: str, target: float
) -> AccountingError:
    epsilon = target * math.exp(nearest[1])
    return AccountingError(
        f"Expected a target of at {end} {epsilon:.6g}, which {setting} costs, got "
        f"target_epsilon={target!r}."
    )


def _close_in(
    gap: Callable[[float], float],
    within: _Point,
    beyond: _Point,
    between: Callable[[float, float, float], float | None],
) -> float:
    """Return the setting within the target that is next to one beyond it.

    False position on log epsilon over log setting, which is nearly a straight line. The
    end that stays while the other moves twice counts half (the Illinois rule).
    """
    settings = {True: within[0], False: beyond[0]}
    gaps = {True: within[1], False: beyond[1]}
    last = None
    while True:
        fall = gaps[True] - gaps[False]
        share = gaps[True] / fall if math.isfinite(fall) else 0.5
        guess = settings[True] * (settings[False] / settings[True]) ** share
        setting = between(guess, settings[True], settings[False])
        if setting is None:
            return settings[True]
        value = gap(setting)
        side = value <= 0
        if side == last:
            gaps[not side] /= 2
        settings[side], gaps[side], last = setting, value, side


def _nearer(
    accountant: str, side: int
) -> Callable[[float, float, float], float | None]:
    """Return the rule that keeps a guess clear of both ends, until they are close.

    Args:
      accountant: whose precision counts.
      side: 1 if larger settings cost more, -1 if they cost less.
    """
    precision = _PRECISIONS.get(accountant, _PRECISION)
    margin = (1 + precision / 2) ** side

    def between(guess: float, within: float, beyond: float) -> float | None:
        if abs(math.log(within / beyond)) <= precision:
            return None
        low, high = sorted((within * margin, beyond / margin))
        return min(max(guess, low), high)

    return between


def _between_steps(guess: float, within: float, beyond: float) -> float | None:
    """Return `guess` as a whole number between the ends, or None if there is none."""
    if beyond - within <= 1:
        return None
    return min(max(float(round(guess)), within + 1), beyond - 1)
