"""What each command of the command line computes and says."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from dpjax import _check
from dpjax.accounting import accountants, calibration, curve, group
from dpjax.accounting.commands import plots, statement, trade_off
from dpjax.accounting.commands.answer import Answer, described, given
from dpjax.accounting.commands.settings import UNAMPLIFIED, Run, Settings
from dpjax.accounting.epsilon import AccountingError, Epsilon
from dpjax.accounting.figures import number_up


def epsilon(settings: Settings) -> Answer:
    """Say what a run costs."""
    run, delta = settings.run, given(settings.delta)
    spent = _spent(run, delta, settings.accountant)
    unamplified = accountants.event_epsilon(
        run.unamplified(), delta, accountant=settings.accountant, relation=UNAMPLIFIED
    )
    groups = [
        (size, _group(run, delta, size, settings.accountant))
        for size in settings.group_sizes
    ]
    return Answer(
        [
            *statement.run_lines(run),
            f"Epsilon at delta {delta:g}:",
            *statement.bound_lines(spent, unamplified),
            f"  (accountant {spent.method!r}, at most {spent.error:.1g} too large)",
            "",
            *statement.group_lines(delta, groups),
            *statement.closing_lines(run, delta),
        ],
        described(run)
        | {"delta": delta, **_number(spent)}
        | {"unamplified": _number(unamplified)}
        | {"groups": [{"size": size, **_number(bound)} for size, bound in groups]},
        lambda: _drawn(settings, run, [settings.accountant]),
    )


def noise(settings: Settings) -> Answer:
    """Say how little noise a target allows, and what it then costs."""
    run, target, delta = settings.run, given(settings.epsilon), given(settings.delta)
    multiplier = calibration.calibrate_noise_multiplier(
        target_epsilon=target,
        delta=delta,
        sampling_prob=run.sampling_prob,
        num_steps=given(run.num_steps),
        accountant=settings.accountant,
    )
    return _solved(
        settings,
        dataclasses.replace(run, noise_multiplier=multiplier),
        f"noise multiplier {multiplier!r}: the least for epsilon {target:g} at delta "
        f"{delta:g}",
    )


def steps(settings: Settings) -> Answer:
    """Say how many steps a target allows, and what they then cost."""
    run, target, delta = settings.run, given(settings.epsilon), given(settings.delta)
    number = calibration.calibrate_num_steps(
        target_epsilon=target,
        delta=delta,
        noise_multiplier=given(run.noise_multiplier),
        sampling_prob=run.sampling_prob,
        accountant=settings.accountant,
    )
    return _solved(
        settings,
        dataclasses.replace(run, num_steps=number),
        f"{number:,} steps: the most for epsilon {target:g} at delta {delta:g}",
    )


def delta(settings: Settings) -> Answer:
    """Say which delta a run has at an epsilon."""
    run, wanted = settings.run, given(settings.epsilon)

    def at(level: float) -> float:
        return accountants.event_delta(
            run.event(), level, accountant=settings.accountant
        )

    found = at(wanted)
    unamplified = accountants.event_delta(
        run.unamplified(), wanted, accountant=settings.accountant, relation=UNAMPLIFIED
    )
    levels = np.linspace(wanted / 4, 2 * wanted or 1.0, settings.points)
    return Answer(
        [
            *statement.run_lines(run),
            f"Delta at epsilon {wanted:g}, by the accountant {settings.accountant!r}:",
            *statement.bound_lines(found, unamplified),
            "",
            *statement.closing_lines(run, found),
        ],
        described(run)
        | {"epsilon": wanted, "delta": float(found), "method": settings.accountant}
        | {"unamplified": {"delta": float(unamplified)}},
        lambda: plots.profile_figure(levels.tolist(), [at(level) for level in levels]),
    )


def curve_(settings: Settings) -> Answer:
    """Say what a run has cost after some of its steps."""
    run, delta = settings.run, given(settings.delta)
    numbers = _some_steps(run, settings.points)
    values = _curve(run, numbers, delta, settings.accountant)
    width = len(f"{numbers[-1]:,}")
    rows = [
        f"{number:>{width + 4},}  {number_up(value):>12}"
        for number, value in zip(numbers, values, strict=True)
    ]
    return Answer(
        [
            *statement.run_lines(run),
            f"{'steps':>{width + 4}}  {'epsilon (*)':>12}   at delta {delta:g}",
            *rows,
            "",
            *statement.closing_lines(run, delta),
        ],
        described(run)
        | {"delta": delta, "method": settings.accountant}
        | {"steps": numbers, "epsilons": values},
        lambda: plots.curve_figure(numbers, {settings.accountant: values}, delta),
    )


def compare(settings: Settings) -> Answer:
    """Say what every accountant finds, the exact one first."""
    run, delta = settings.run, given(settings.delta)
    rows, found = [], {}
    for name in accountants.NAMES:
        try:
            spent = _spent(run, delta, name)
        except AccountingError as error:
            rows.append(f"  {name:<6}  none: {error}")
            continue
        found[name] = _number(spent)
        answered = "" if spent.method == name else f"  (answered by {spent.method!r})"
        rows.append(f"  {name:<6}  {number_up(spent, 6):>12}{answered}")
    return Answer(
        [
            *statement.run_lines(run),
            f"Epsilon at delta {delta:g} (*) by each accountant. Each is a bound, and "
            "the least one counts:",
            *rows,
            "",
            *statement.closing_lines(run, delta),
        ],
        described(run) | {"delta": delta, "epsilons": found},
        lambda: _drawn(settings, run, list(found)),
    )


ALL: dict[str, Callable[[Settings], Answer]] = {
    "epsilon": epsilon,
    "delta": delta,
    "noise": noise,
    "steps": steps,
    "curve": curve_,
    "compare": compare,
    "tradeoff": trade_off.answer,
}


def _solved(settings: Settings, run: Run, first: str) -> Answer:
    """Return the answer about a run of which one setting was solved for."""
    answer = epsilon(dataclasses.replace(settings, run=run))
    target = {"target_epsilon": settings.epsilon}
    return answer._replace(lines=[first, "", *answer.lines], data=answer.data | target)


def _spent(run: Run, delta: float, accountant: str) -> Epsilon:
    return accountants.event_epsilon(run.event(), delta, accountant=accountant)


def _group(run: Run, delta: float, size: int, accountant: str) -> Epsilon:
    """Return the epsilon of `size` examples: the account of a group, or a conversion.

    By Renyi divergences, either may be the lower bound.
    """
    found = []
    with contextlib.suppress(AccountingError):
        event = group.group_event(run.event(), size)
        found.append(accountants.event_epsilon(event, delta, accountant=accountant))
    if accountant == "rdp" or not found:
        found.append(
            group.vadhan_epsilon(run.event(), delta, size, accountant=accountant)
        )
    return min(found)


def _number(spent: Epsilon) -> dict[str, Any]:
    return {"epsilon": float(spent), "error": spent.error, "method": spent.method}


def _some_steps(run: Run, points: int) -> list[int]:
    last = _check.integer("num_steps", run.num_steps, minimum=0)
    spread = {1 + (last - 1) * place // (points - 1) for place in range(points)}
    return sorted(spread) if last else [0]


def _curve(run: Run, numbers: list[int], delta: float, accountant: str) -> list[float]:
    return curve.epsilon_curve(
        noise_multiplier=given(run.noise_multiplier),
        sampling_prob=run.sampling_prob,
        steps=numbers,
        delta=delta,
        accountant=accountant,
    ).tolist()


def _drawn(settings: Settings, run: Run, names: list[str]) -> Any:
    delta, numbers = given(settings.delta), _some_steps(run, settings.points)
    curves = {name: _curve(run, numbers, delta, name) for name in names}
    return plots.curve_figure(numbers, curves, delta)
