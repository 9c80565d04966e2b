"""The odometer: a reading that holds at all times, however releases were chosen."""

import math

import dp_accounting
import numpy as np
import pytest

from dpjax import accounting
from dpjax.accounting import AccountingError
from dpjax.accounting.ledgers.odometer import PrivacyOdometer

GAUSSIAN = dp_accounting.GaussianDpEvent


def readings(odometer, events):
    found = [odometer.epsilon()]
    for event in events:
        odometer.spend(event, "step")
        found.append(odometer.epsilon())
    return found


def test_the_reading_starts_at_zero_and_never_falls():
    events = [GAUSSIAN(noise) for noise in (9.0, 30.0, 4.0, 100.0, 4.0)]
    found = readings(PrivacyOdometer(1e-5), events)
    assert found[0] == 0
    assert found == sorted(found)
    assert found[-1].method == "odometer"


def test_the_reading_is_the_sum_of_divergences_and_the_price_of_delta():
    odometer = PrivacyOdometer(1e-3, orders=[3.0])
    found = readings(odometer, [GAUSSIAN(4.0), GAUSSIAN(8.0)])
    total = 3 / 32 + 3 / 128
    assert found[-1] == pytest.approx(total + math.log(1e3) / 2, rel=1e-12)
    both = PrivacyOdometer(1e-3, orders=[3.0, 9.0])
    found = readings(both, [GAUSSIAN(4.0), GAUSSIAN(8.0)])
    wanted = min(total + math.log(2e3) / 2, 3 * total + math.log(2e3) / 8)
    assert found[-1] == pytest.approx(wanted, rel=1e-12)


def test_orders_may_be_an_array():
    orders = [1.5, 3.0, 9.0]
    one, other = (
        readings(PrivacyOdometer(1e-5, orders=given), [GAUSSIAN(4.0)])
        for given in (orders, np.array(orders))
    )
    assert one == other


@pytest.mark.parametrize("count", [1, 30, 1000])
@pytest.mark.parametrize(
    "event",
    [GAUSSIAN(30.0), dp_accounting.PoissonSampledDpEvent(0.01, GAUSSIAN(1.0))],
    ids=["plain", "sampled"],
)
def test_the_reading_is_above_the_exact_epsilon_of_events_fixed_beforehand(
    event, count
):
    odometer = PrivacyOdometer(1e-5)
    odometer.spend(dp_accounting.SelfComposedDpEvent(event, count), "steps")
    composed = dp_accounting.SelfComposedDpEvent(event, count)
    exact, renyi = (
        accounting.event_epsilon(composed, 1e-5, accountant=name)
        for name in ("exact", "rdp")
    )
    assert exact < renyi < odometer.epsilon() < 1.5 * renyi + 0.4


def test_losses_stay_below_the_reading_at_all_times_with_the_stated_probability():
    # Normal outputs of mean 1 or 0; noise is halved while the loss is high, so that the
    # betting is done where it may break the reading.
    generator = np.random.default_rng(1)
    courses, steps, delta = 20_000, 60, 0.05
    orders = np.array([1.5, 2.0, 3.0, 5.0, 9.0])
    loss, rho = np.zeros(courses), np.zeros(courses)
    passed, above_naive = np.zeros(courses, bool), np.zeros(courses, bool)
    share = math.log(orders.size / delta)
    for _ in range(steps):
        noise = np.where(loss > 2 * np.sqrt(rho), 3.0, 6.0)
        outputs = generator.normal(1.0, noise)
        loss += (outputs - 0.5) / noise**2
        rho += 0.5 / noise**2
        bound = np.min(
            rho[:, None] * orders + share / (orders - 1), axis=1
        )  # The reading: see the test below.
        passed |= loss > bound
        above_naive |= loss > rho + 2 * np.sqrt(rho) * 1.1631  # isf(.05) sqrt(1/2)
    assert passed.mean() <= delta
    assert above_naive.mean() > 2 * delta  # What holds at one time does not at all.


def test_the_simulated_bound_is_the_reading():
    orders = [1.5, 2.0, 3.0, 5.0, 9.0]
    odometer = PrivacyOdometer(0.05, orders=orders)
    for noise in (6.0, 3.0, 3.0, 6.0):
        odometer.spend(GAUSSIAN(noise), "bet")
    rho = 0.5 * (2 / 36 + 2 / 9)
    wanted = min(rho * a + math.log(5 / 0.05) / (a - 1) for a in orders)
    assert odometer.epsilon() == pytest.approx(wanted, rel=1e-12)


def test_what_has_no_noise_has_no_reading_and_public_work_is_free():
    odometer = PrivacyOdometer(1e-5)
    odometer.spend(dp_accounting.NoOpDpEvent(), "public")
    assert odometer.epsilon() == 0
    odometer.spend(dp_accounting.NonPrivateDpEvent(), "bare")
    assert odometer.epsilon() == math.inf
    assert [entry.label for entry in odometer.entries] == ["public", "bare"]
    assert odometer.delta == 1e-5


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: PrivacyOdometer(0.0), ValueError, "delta"),
        (lambda: PrivacyOdometer(1e-5, orders=[1.0, 2.0]), ValueError, "orders"),
        (lambda: PrivacyOdometer(1e-5, orders=[]), ValueError, "at least one order"),
        (lambda: PrivacyOdometer(1e-5, orders=[math.inf]), ValueError, "orders"),
        (lambda: PrivacyOdometer(1e-5, relation=3), TypeError, "relation"),
        (lambda: PrivacyOdometer(1e-5).spend(None, "x"), TypeError, "event"),
        (lambda: PrivacyOdometer(1e-5).spend(GAUSSIAN(1.0), " "), ValueError, "label"),
        (
            lambda: PrivacyOdometer(1e-5).spend(
                dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.ZCDpEvent(1.0)),
                "x",
            ),
            AccountingError,
            "event",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
