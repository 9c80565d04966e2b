"""The Renyi accountant."""

import json
import math
import pathlib

import dp_accounting
import numpy as np
import pytest
from accounting_cases import CASES, IDS, event, sampled

from dpjax.accounting import rdp
from dpjax.accounting.epsilon import AccountingError
from dpjax.accounting.events import Relation, take_apart
from dpjax.accounting.renyi import of_events

ADD = Relation.ADD_OR_REMOVE_ONE
ZERO = Relation.REPLACE_SPECIAL
REPLACE = Relation.REPLACE_ONE
GAUSSIAN = dp_accounting.GaussianDpEvent

_PATH = pathlib.Path(__file__).parent / "data" / "renyi_cases.json"
BOUNDS = json.loads(_PATH.read_text())["cases"]
BOUND_IDS = [case["id"] for case in BOUNDS]


@pytest.mark.parametrize("case", BOUNDS, ids=BOUND_IDS)
def test_epsilon_is_the_best_of_all_orders_and_never_below_the_truth(case):
    epsilon = rdp.epsilon(take_apart(event(case)), case["delta"], ADD)
    assert epsilon >= case["truth"]
    # The reference searched fewer orders: by up to 0.4 % it stops above the minimum.
    assert case["best"] * (1 - 5e-3) <= epsilon <= case["best"] * (1 + 1e-9)
    assert epsilon <= case["default"] * (1 + 1e-9)
    assert epsilon.method == "rdp"
    assert math.isnan(epsilon.error)


@pytest.mark.parametrize("case", BOUNDS, ids=BOUND_IDS)
def test_no_other_order_gives_a_lower_bound(case):
    parts = take_apart(event(case))
    epsilon = rdp.epsilon(parts, case["delta"], ADD)
    orders = 1 + np.geomspace(1e-3, 1e6, 400)
    others = (
        of_events.divergences(parts, orders, ADD)
        + np.log1p(-1 / orders)
        - np.log(orders * case["delta"]) / (orders - 1)
    )
    assert epsilon <= others.min() * (1 + 1e-9)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_epsilon_is_never_below_the_truth(case):
    epsilon = rdp.epsilon(take_apart(event(case)), case["delta"], ADD)
    assert epsilon >= case["epsilon"]


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta", "epsilon", "order"),
    [
        # TF-Privacy's test: 5 907 982 at its orders, 7801 at dp_accounting's.
        (0.1, 1.024e-5, 976563, 1e-7, 1295.10, 1.029),
        (100.0, 0.01, 1, 1e-6, 2.3537e-4, 26262),
        (1.3, 0.0025, 6000, 1e-5, 0.72406, 19.1),
    ],
)
def test_the_order_is_found_far_outside_the_usual_ones(
    noise, rate, steps, delta, epsilon, order
):
    parts = take_apart(sampled(noise, rate, steps))
    assert rdp.epsilon(parts, delta, ADD) == pytest.approx(epsilon, rel=1e-4)
    assert rdp.best_order(parts, delta, ADD) == pytest.approx(order, rel=1e-3)


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "truth"),
    [(1.0, 0.01, 1000, 2.843), (1.0, 0.004, 15000, 4.669), (1.5, 0.04, 2250, 13.488)],
)
def test_replacing_one_costs_more_than_the_truth_and_not_much_more(
    noise, rate, steps, truth
):
    # The truth is dp_accounting's number of privacy loss distributions.
    parts = take_apart(sampled(noise, rate, steps))
    assert truth < rdp.epsilon(parts, 1e-5, REPLACE) < 1.15 * truth


def test_a_thousand_different_segments_cost_what_their_middle_does():
    # Of sigma = 1.000, ..., 1.999, once each; by a contour integral, 1.07327085.
    noises = 1 + np.arange(1000) / 1000
    parts = [part for s in noises for part in take_apart(sampled(s, 0.01))]
    epsilon = rdp.epsilon(parts, 1e-5, ADD)
    assert 1.07327085 < epsilon < 1.3937975103  # At dp_accounting's orders.


@pytest.mark.parametrize("noise", [0.5, 1.0, 4.0])
def test_replacing_one_costs_what_half_the_noise_does(noise):
    replaced = rdp.epsilon([(GAUSSIAN(noise), 3)], 1e-5, REPLACE)
    halved = rdp.epsilon([(GAUSSIAN(noise / 2), 3)], 1e-5, ADD)
    assert replaced == pytest.approx(halved, rel=1e-9)
    # The truth: noise over the doubled sensitivity, by its closed form.
    truth = dp_accounting.get_epsilon_gaussian(noise / 2 / math.sqrt(3), 1e-5)
    assert replaced >= truth


def test_zeroing_one_out_costs_what_removing_it_does():
    parts = take_apart(sampled(1.0, 0.01, 100))
    assert rdp.epsilon(parts, 1e-5, ZERO) == rdp.epsilon(parts, 1e-5, ADD)


def test_divergences_lost_in_rounding_are_not_taken_for_none():
    # R(2) = log(1 + q^2 (e - 1)) is about 2e-20: below what a difference from 1 shows.
    parts = take_apart(sampled(1.0, 1e-10, 10))
    exact = 10 * 1e-20 * math.expm1(1.0)
    found = of_events.divergences(parts, np.array([2.0]), ADD)[0]
    assert exact <= found <= exact * (1 + 1e-12)


@pytest.mark.parametrize("relation", [ADD, REPLACE])
@pytest.mark.parametrize("noise", [1e-3, 1e6])
@pytest.mark.parametrize("steps", [1, 10**9])
def test_hostile_settings_have_a_finite_bound(noise, steps, relation):
    parts = take_apart(sampled(noise, 1e-12, steps))
    epsilon = rdp.epsilon(parts, 1e-300, relation)
    assert 0 < epsilon < math.inf


@pytest.mark.parametrize("case", BOUNDS[::4], ids=BOUND_IDS[::4])
def test_delta_undoes_epsilon(case):
    parts = take_apart(event(case))
    epsilon = rdp.epsilon(parts, case["delta"], ADD)
    found = rdp.delta(parts, epsilon, ADD)
    assert found == pytest.approx(case["delta"], rel=1e-6)
    assert found.method == "rdp"


def test_delta_is_no_more_than_the_total_variation_distance_allows():
    found = rdp.delta([(GAUSSIAN(2.0), 1)], 0.0, ADD)
    assert math.erf(0.5 / math.sqrt(8)) < found < 0.5
    assert rdp.delta([(GAUSSIAN(1e-2), 1)], 0.0, ADD) == 1.0


def test_a_delta_beyond_the_total_variation_distance_costs_nothing():
    assert rdp.epsilon(take_apart(sampled(100.0, 1e-6, 5)), 1e-5, ADD) == 0.0


@pytest.mark.parametrize(
    "event",
    [
        dp_accounting.LaplaceDpEvent(2.0),
        dp_accounting.ZCDpEvent(0.1),
    ],
)
def test_other_events_cost_what_the_library_says_and_more_when_repeated(event):
    library = dp_accounting.rdp.RdpAccountant(neighboring_relation=ZERO)
    bound = library.compose(event).get_epsilon(1e-5)
    once, thrice = (rdp.epsilon([(event, n)], 1e-5, ZERO) for n in (1, 3))
    assert 0.98 * bound <= once <= bound * (1 + 1e-9)  # Among fewer orders.
    assert thrice > 1.2 * once


@pytest.mark.parametrize("rate", [0.01, 0.3])
@pytest.mark.parametrize("noise", [0.01, 0.5, 20.0])
def test_sampled_laplace_noise_costs_at_most_its_largest_loss(rate, noise):
    event = dp_accounting.PoissonSampledDpEvent(
        rate, dp_accounting.LaplaceDpEvent(noise)
    )
    # The losses themselves, on a fine grid; the mean of e^((a - 1) loss) under P.
    x = np.linspace(-40 * noise, 1 + 40 * noise, 2_000_001)
    zero = np.exp(-abs(x) / noise) / (2 * noise)
    p = (1 - rate) * zero + rate * np.exp(-abs(x - 1) / noise) / (2 * noise)
    losses = np.log(p) - np.log(zero)
    orders = np.array([1.5, 3.0, 30.0])
    found = of_events.divergences([(event, 1)], orders, ADD)
    for order, bound in zip(orders, found, strict=True):
        log_terms = np.log(zero) + order * losses
        top = log_terms.max()
        total = top + np.log(np.exp(log_terms - top).sum() * (x[1] - x[0]))
        assert total / (order - 1) <= bound + 1e-4
    largest = of_events.divergences([(event, 1)], np.array([1e6]), ADD)[0]
    assert largest == pytest.approx(losses.max(), rel=1e-3)


def test_small_divergences_of_other_events_are_not_rounded_down():
    # R(a) tends to a / (2 b^2) as b grows; a difference from 1 hides it near order 1.
    orders = np.array([1.001, 2.0, 100.0])
    laplace = [(dp_accounting.LaplaceDpEvent(1e4), 1)]
    found = of_events.divergences(laplace, orders, ZERO)
    assert np.all(found >= orders / 2 * 1e-8 * (1 - 1e-2))


def test_gaussian_and_other_events_add_up():
    mixed = [(dp_accounting.LaplaceDpEvent(5.0), 2), *take_apart(sampled(1.0, 0.01, 9))]
    orders = np.array([1.5, 8.0])
    apart = [of_events.divergences([part], orders, ADD) for part in mixed]
    together = of_events.divergences(mixed, orders, ADD)
    np.testing.assert_allclose(together, sum(apart), rtol=1e-14)
    assert rdp.epsilon(mixed, 1e-5, ADD) > rdp.epsilon(mixed[:1], 1e-5, ADD)


@pytest.mark.parametrize(
    ("event", "relation"),
    [
        (
            dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.LaplaceDpEvent(1.0)),
            REPLACE,
        ),
        (dp_accounting.dp_event.MixtureOfGaussiansDpEvent(1.0, [1.0], [1.0]), REPLACE),
        (dp_accounting.LaplaceDpEvent(1.0), REPLACE),
        (dp_accounting.RandomizedResponseDpEvent(0.5, 2), ZERO),
        (dp_accounting.SingleEpochTreeAggregationDpEvent(3.0, 4), ADD),
        (dp_accounting.UnsupportedDpEvent(), ADD),
    ],
)
def test_what_has_no_sound_renyi_account_is_refused(event, relation):
    with pytest.raises(AccountingError, match=type(event).__name__):
        rdp.epsilon([(event, 1)], 1e-5, relation)


@pytest.mark.parametrize(
    ("step", "relation"),
    [
        (sampled(1.0, 0.01), ADD),
        (sampled(1.0, 0.01), REPLACE),
        (GAUSSIAN(30.0), REPLACE),
        (dp_accounting.LaplaceDpEvent(20.0), ADD),
    ],
)
def test_curve_holds_the_epsilon_of_each_number_of_steps(step, relation):
    steps = [0, 1, 10, 1000]
    curve = rdp.curve(take_apart(step), 1e-5, relation, steps)
    repeated = [dp_accounting.SelfComposedDpEvent(step, n) for n in steps[1:]]
    points = [rdp.epsilon(take_apart(event), 1e-5, relation) for event in repeated]
    np.testing.assert_allclose(curve, [0.0, *points], rtol=1e-5)


def test_curve_evaluates_the_step_once_for_all_numbers(monkeypatch):
    calls = []
    original = of_events.divergences

    def counting(*args):
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(of_events, "divergences", counting)
    rdp.curve(take_apart(sampled(1.0, 0.01)), 1e-5, ADD, range(1, 3))
    few = len(calls)
    rdp.curve(take_apart(sampled(1.0, 0.01)), 1e-5, ADD, range(1, 2000))
    assert len(calls) - few < 2 * few


@pytest.mark.parametrize("steps", [[], [0], [0, 0]])
def test_a_curve_of_no_steps_is_zero(steps):
    curve = rdp.curve(take_apart(sampled(1.0, 0.01)), 1e-5, ADD, steps)
    assert np.array_equal(curve, np.zeros(len(steps)))
