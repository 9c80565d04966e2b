"""The least noise that a filter still admits: one percent less is refused."""

import dp_accounting
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpjax import accounting
from dpjax.accounting import AccountingError, Budget, BudgetExceeded
from dpjax.accounting.ledgers.filter_file import FilterFile
from dpjax.accounting.ledgers.filters import ConcentratedFilter, GaussianFilter
from dpjax.accounting.ledgers.least_noise import calibrate_to_filter
from dpjax.accounting.ledgers.renyi_filter import RenyiFilter

GAUSSIAN = dp_accounting.GaussianDpEvent
BUDGET = Budget(epsilon=3.0, delta=1e-4)


def steps(count, rate=1.0):
    def event(noise):
        one = GAUSSIAN(noise)
        one = dp_accounting.PoissonSampledDpEvent(rate, one) if rate < 1 else one
        return dp_accounting.SelfComposedDpEvent(one, count)

    return event


CASES = [
    (RenyiFilter, steps(1)),
    (RenyiFilter, steps(100, 0.25)),
    (RenyiFilter, steps(4, 0.0125)),
    (RenyiFilter, steps(10_000, 0.001)),
    (ConcentratedFilter, steps(30)),
    (ConcentratedFilter, lambda noise: dp_accounting.ZCDpEvent(0.5 / noise**2)),
    (GaussianFilter, steps(30)),
]


@pytest.mark.parametrize(("make", "event"), CASES)
@pytest.mark.parametrize("before", [None, 20.0, 2.5])
def test_the_noise_is_admitted_and_a_little_less_is_not(make, event, before):
    budget = make(BUDGET)
    if before is not None:
        budget.spend(GAUSSIAN(before), "before")
    noise = calibrate_to_filter(event, budget)
    assert len(budget.entries) == (before is not None)  # nothing was spent
    assert budget.admits(event(noise))
    assert not budget.admits(event(0.99 * noise))
    assert not budget.admits(event((1 - 3e-8) * noise))
    with pytest.raises(BudgetExceeded):
        budget.spend(event(0.99 * noise), "too much")
    budget.spend(event(noise), "the rest")
    with pytest.raises(AccountingError, match=r"a filter with 0\.0003 of Budget"):
        calibrate_to_filter(event, budget)


@given(st.floats(1.5, 100.0), st.floats(1.01, 10.0))
def test_the_more_was_spent_the_more_noise_it_takes(noise, factor):
    found = []
    for before in (noise * factor, noise):
        budget = GaussianFilter(BUDGET)
        budget.spend(GAUSSIAN(before), "before")
        found.append(calibrate_to_filter(GAUSSIAN, budget))
    assert found[0] < found[1]


def test_of_plain_releases_squares_of_one_over_the_noise_add_up():
    budget = GaussianFilter(BUDGET)
    whole = calibrate_to_filter(GAUSSIAN, budget)
    exact = accounting.calibrate_event(GAUSSIAN, target_epsilon=3.0, delta=1e-4)
    assert whole == pytest.approx(exact, rel=1e-7)
    budget.spend(GAUSSIAN(4.0), "before")
    wanted = (exact**-2 - 4.0**-2) ** -0.5
    assert calibrate_to_filter(GAUSSIAN, budget) == pytest.approx(wanted, rel=1e-7)


def test_a_file_is_asked_for_what_is_left_of_it(tmp_path):
    def shared():
        return FilterFile(tmp_path / "budget.json", RenyiFilter(BUDGET))

    whole = calibrate_to_filter(GAUSSIAN, shared())
    assert not shared().path.exists()
    shared().spend(GAUSSIAN(3.0), "another program")
    rest = calibrate_to_filter(GAUSSIAN, shared())
    assert rest > whole
    shared().spend(GAUSSIAN(rest), "the rest")


def test_what_costs_nothing_takes_the_least_noise_there_is():
    def free(noise):
        del noise
        return dp_accounting.NoOpDpEvent()

    assert calibrate_to_filter(free, RenyiFilter(BUDGET)) == 2.0**-10


def test_what_no_noise_makes_cheap_is_an_error():
    def dear(noise):
        del noise
        return dp_accounting.NonPrivateDpEvent()

    with pytest.raises(AccountingError, match="with enough noise"):
        calibrate_to_filter(dear, RenyiFilter(BUDGET))
    with pytest.raises(AccountingError, match="plain Gaussian"):
        calibrate_to_filter(steps(3, 0.1), GaussianFilter(BUDGET))
