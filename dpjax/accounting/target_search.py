"""The setting that spends a target, between one that spends less and one beyond it."""

import math
from collections.abc import Callable

from dpjax.accounting.epsilon import AccountingError

_LEAST_NOISE = 2.0**-10
_MOST_NOISE = 2.0**40
_MOST_STEPS = 2**33
_LEAST_RATE = 2.0**-50

_PRECISIONS = {"exact": 1e-9}
_PRECISION = 1e-5
"""How close settings come, relatively, by accountant."""

Point = tuple[float, float]
"""A setting, and the logarithm of its epsilon over the target."""


def largest_batch(gap: Callable[[float], float], size: int, target: float) -> float:
    """Return the largest batch of whole examples within the target."""
    within, beyond = (1.0, gap(1.0)), (float(size), gap(float(size)))
    if beyond[1] <= 0:
        return float(size)
    if within[1] > 0:
        raise impossible("least", within, "a batch of one example", target)
    return close_in(gap, within, beyond, between_steps)


def bracket_rate(gap: Callable[[float], float], beyond: Point, target: float) -> Point:
    """Return the largest power of 1/8 within the target."""
    here = beyond
    while here[1] > 0:
        rate = here[0] / 8
        if rate < _LEAST_RATE:
            raise impossible("least", here, f"sampling probability {here[0]}", target)
        here = (rate, gap(rate))
    return here


def log_ratio(spent: float, target: float) -> float:
    """Return log(spent / target): at most 0 exactly where the target is kept."""
    if spent <= target:
        return min(0.0, math.log(spent / target)) if spent > 0 else -math.inf
    return max(math.log(spent / target), math.ulp(0.0))


def bracket_noise(gap: Callable[[float], float], target: float) -> tuple[Point, Point]:
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
    raise impossible(
        "most" if inside else "least", here, f"noise multiplier {here[0]}", target
    )


def bracket_steps(gap: Callable[[float], float], target: float) -> tuple[Point, Point]:
    """Return numbers of steps within and beyond the target."""
    here = (1.0, gap(1.0))
    if here[1] > 0:
        raise impossible("least", here, "one step", target)
    while here[0] < _MOST_STEPS:
        steps = min(8 * here[0], _MOST_STEPS)
        there = (steps, gap(steps))
        if there[1] > 0:
            return here, there
        here = there
    raise impossible("most", here, "2^33 steps", target)


def impossible(
    end: str, nearest: Point, setting: str, target: float
) -> AccountingError:
    """Return the error that names the epsilon nearest to the target."""
    epsilon = target * math.exp(nearest[1])
    return AccountingError(
        f"Expected a target of at {end} {epsilon:.6g}, which {setting} costs, got "
        f"target_epsilon={target!r}."
    )


def close_in(
    gap: Callable[[float], float],
    within: Point,
    beyond: Point,
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


def nearer(accountant: str, side: int) -> Callable[[float, float, float], float | None]:
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


def between_steps(guess: float, within: float, beyond: float) -> float | None:
    """Return `guess` as a whole number between the ends, or None if there is none."""
    if beyond - within <= 1:
        return None
    return min(max(float(round(guess)), within + 1), beyond - 1)
