"""The command that says how well anybody can tell whether an example was used."""

from dpjax.accounting import tradeoff, views
from dpjax.accounting.commands import plots, statement
from dpjax.accounting.commands.answer import Answer, described, given
from dpjax.accounting.commands.settings import UNAMPLIFIED, Settings
from dpjax.accounting.figures import number_up

_RATES = (1e-4, 1e-3, 1e-2, 0.1, 0.5)
"""False positive rates at which the table has the true positive ones."""


def answer(settings: Settings) -> Answer:
    """Say what the best test of membership reaches, and how Gaussian the curve is."""
    run, delta, name = settings.run, given(settings.delta), settings.accountant
    curve = tradeoff.trade_off_curve(run.event(), accountant=name)
    fixed = tradeoff.trade_off_curve(
        run.unamplified(), accountant=name, relation=UNAMPLIFIED
    )
    mu = views.gaussian_dp(run.event(), regret=delta, accountant=name)
    return Answer(
        [
            *statement.run_lines(run),
            "Who guesses from all of it whether the example was used, and is wrong for",
            "that share of unused ones, is right for at most that of used ones: with",
            "Poisson sampling (*), and with fixed or shuffled batches:",
            *_rows(curve, fixed),
            "",
            f"Gaussian DP with mu {number_up(mu)} (*), up to a regret of {delta:g}.",
            "",
            *statement.closing_lines(run, delta),
        ],
        described(run)
        | {"method": name, "mu": mu, "regret": delta, **_numbers(curve)}
        | {"unamplified": _numbers(fixed)},
        lambda: plots.trade_off_figure(curve, mu),
    )


def _rows(*curves: tradeoff.TradeOffCurve) -> list[str]:
    rows = [["false positives", "true positives (*)", "fixed or shuffled"]]
    for rate in _RATES:
        found = [number_up(float(curve.true_positive_rate(rate))) for curve in curves]
        rows.append([f"{rate:g}", *found])
    rows.append(["advantage", *(number_up(curve.advantage) for curve in curves)])
    return [f"  {first:<15}  {a:>18}  {b:>17}" for first, a, b in rows]


def _numbers(curve: tradeoff.TradeOffCurve) -> dict[str, object]:
    return {
        "false_positive_rates": list(_RATES),
        "true_positive_rates": curve.true_positive_rate(_RATES).tolist(),
        "advantage": curve.advantage,
    }
