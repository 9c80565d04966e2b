"""Pictures show the numbers that they were given."""

import dp_accounting
import pytest

from dpjax.accounting import tradeoff
from dpjax.accounting.commands import plots
from dpjax.accounting.ledgers.budget import Budget
from dpjax.accounting.ledgers.ledger import PrivacyLedger

DELTA = 1e-5


def ledger(*events):
    found = PrivacyLedger(Budget(9.0, DELTA))
    for number, event in enumerate(events):
        found.spend(event, f"phase {number}")
    return found


def gaussians(*noises):
    return ledger(*map(dp_accounting.GaussianDpEvent, noises))


def test_bars_of_a_ledger_stand_end_to_end_and_reach_its_epsilon():
    rows = gaussians(8.0, 4.0, 6.0).spending(DELTA)
    axes = plots.ledger_figure(rows, DELTA, Budget(9.0, DELTA)).axes[0]
    bars = axes.patches
    assert [bar.get_x() + bar.get_width() for bar in bars] == pytest.approx(
        [row.total for row in rows]
    )
    assert [bar.get_x() for bar in bars] == pytest.approx(
        [0.0] + [row.total for row in rows[:-1]]
    )
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["phase 0", "phase 1", "phase 2"]
    assert axes.lines[0].get_xdata()[0] == 9.0


def test_a_budget_at_another_delta_is_not_drawn():
    rows = gaussians(8.0).spending(1e-7)
    assert not plots.ledger_figure(rows, 1e-7, Budget(9.0, DELTA)).axes[0].lines


@pytest.mark.parametrize("events", [[], [dp_accounting.NonPrivateDpEvent()]])
def test_nothing_and_everything_are_not_drawn(events):
    found = PrivacyLedger()
    for event in events:
        found.spend(event, "leak")
    with pytest.raises(plots.PlotError, match="finite epsilon"):
        plots.ledger_figure(found.spending(DELTA), DELTA)


def test_a_curve_has_a_line_for_each_accountant():
    curves = {"exact": [0.1, 0.2], "rdp": [0.3, float("inf")]}
    axes = plots.curve_figure([1, 10], curves, DELTA).axes[0]
    assert [line.get_label() for line in axes.lines] == ["exact", "rdp"]
    assert list(axes.lines[0].get_ydata()) == [0.1, 0.2]
    assert axes.get_ylabel() == "epsilon at delta 1e-05"


def test_a_profile_is_drawn_in_logarithms():
    axes = plots.profile_figure([0.5, 1.0, 2.0], [1e-3, 1e-5, 0.0]).axes[0]
    assert axes.get_yscale() == "log"
    assert list(axes.lines[0].get_xdata()) == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("ending", ["png", "SVG", "pdf"])
def test_the_ending_says_the_format(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    plots.save(plots.profile_figure([1.0], [1e-5]), path)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending.lower()]
    assert path.read_bytes().startswith(start)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(plots, "Figure", None)
    with pytest.raises(plots.PlotError, match=r"dpjax\[train\]"):
        plots.curve_figure([1], {"exact": [1.0]}, DELTA)


def test_a_trade_off_curve_is_drawn_twice_with_guessing_and_its_advantage():
    event = dp_accounting.GaussianDpEvent(2.0)
    curve = tradeoff.trade_off_curve(event)
    figure = plots.trade_off_figure(curve, mu=0.5)
    linear, log = figure.axes
    assert (linear.get_xscale(), linear.get_yscale()) == ("linear", "linear")
    assert (log.get_xscale(), log.get_yscale()) == ("log", "log")
    for axes in (linear, log):
        lines = {line.get_label(): line for line in axes.lines}
        rates = lines["this run"].get_xdata()
        errors = lines["this run"].get_ydata()
        assert list(errors) == list(curve.false_negative_rate(rates))
        assert list(lines["guessing"].get_ydata()) == list(1 - rates)
        # The mechanism is 0.5-Gaussian DP, so that the tangents lie just below.
        assert lines["Gaussian DP, mu 0.5000"].get_ydata() == pytest.approx(
            errors, abs=1e-3
        )
        ends = lines["advantage 0.1975"].get_ydata()
        assert ends[1] - ends[0] == pytest.approx(curve.advantage, abs=1e-3)


def test_without_a_finite_mu_no_gaussian_curve_is_drawn():
    curve = tradeoff.trade_off_curve(dp_accounting.NonPrivateDpEvent())
    labels = [line.get_label() for line in plots.trade_off_figure(curve).axes[0].lines]
    assert labels == ["guessing", "this run", "advantage 1.000"]
