"""The command tradeoff says the library's numbers."""

import math

import pytest

from dpjax.accounting import tradeoff, views
from dpjax.accounting.commands import trade_off
from dpjax.accounting.commands.settings import UNAMPLIFIED, Run, Settings


def settings(noise=1.0, num_steps=100):
    run = Run(noise_multiplier=noise, sampling_prob=0.01, num_steps=num_steps)
    return Settings(run=run, delta=1e-5, epsilon=None, accountant="exact")


@pytest.fixture(scope="module")
def answer():
    return trade_off.answer(settings())


def test_rates_are_those_of_the_curve_with_and_without_amplification(answer):
    run = settings().run
    curve = tradeoff.trade_off_curve(run.event())
    fixed = tradeoff.trade_off_curve(run.unamplified(), relation=UNAMPLIFIED)
    for found, expected in ((answer.data, curve), (answer.data["unamplified"], fixed)):
        rates = found["false_positive_rates"]
        assert rates == [1e-4, 1e-3, 1e-2, 0.1, 0.5]
        assert found["true_positive_rates"] == list(expected.true_positive_rate(rates))
        assert found["advantage"] == expected.advantage


def test_mu_has_the_regret_that_was_asked_for(answer):
    expected = views.gaussian_dp(settings().run.event(), regret=1e-5)
    assert (answer.data["mu"], answer.data["regret"]) == (expected, 1e-5)
    assert any("up to a regret of 1e-05" in line for line in answer.lines)


def test_the_table_shows_what_the_data_hold_rounded_up(answer):
    rows = [line.split() for line in answer.lines if line.startswith("  ")][1:]
    assert [row[0] for row in rows] == [
        *("0.0001", "0.001", "0.01", "0.1", "0.5"),
        "advantage",
    ]
    exact = [*answer.data["true_positive_rates"], answer.data["advantage"]]
    for row, bound in zip(rows, exact, strict=True):
        assert bound <= float(row[1]) <= 1.001 * bound
        assert float(row[1]) <= float(row[2])


def test_the_picture_has_both_axes(answer):
    assert len(answer.draw().axes) == 2


@pytest.mark.parametrize(
    ("noise", "steps", "mu", "advantage"), [(0.0, 1, math.inf, 1), (1.0, 0, 0, 0)]
)
def test_everything_and_nothing_have_a_curve(noise, steps, mu, advantage):
    found = trade_off.answer(settings(noise, steps))
    assert (found.data["mu"], found.data["advantage"]) == (mu, advantage)
    assert found.draw().axes
