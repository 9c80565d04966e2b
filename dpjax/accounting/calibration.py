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
_PRECISION = 1e-5


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
      A noise multiplier at most 1e-5, relatively, above the least one.

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
    return _close_in(gap, within, beyond, _between_noises)


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
      A noise multiplier at most 1e-5, relatively, above the least one.

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


def _log_ratio(spent: float, target: float) -> float:
    """Return log(spent / target): at most 0 exactly where the target is kept."""
    if spent <= target:
        return min(0.0, math.log(spent / target)) if spent > 0 else -math.inf
    return max(math.log(spent / target), math.ulp(0.0))


_Point = tuple[float, float]
"""A setting, and the logarithm of its epsilon over the target."""


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


def _between_noises(guess: float, within: float, beyond: float) -> float | None:
    """Return `guess` kept clear of both ends, or None where they are close enough."""
    if within <= beyond * (1 + _PRECISION):
        return None
    margin = 1 + _PRECISION / 2
    return min(max(guess, beyond * margin), within / margin)


def _between_steps(guess: float, within: float, beyond: float) -> float | None:
    """Return `guess` as a whole number between the ends, or None if there is none."""
    if beyond - within <= 1:
        return None
    return min(max(float(round(guess)), within + 1), beyond - 1)
