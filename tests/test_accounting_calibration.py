"""Settings that spend a given epsilon."""

import dp_accounting
import pytest
from accounting_cases import sampled

from dpjax.accounting import (
    AccountingError,
    calibrate_event,
    calibrate_noise_multiplier,
    calibrate_num_steps,
    calibrate_sampling_prob,
    event_epsilon,
    exact_epsilon,
    pld_epsilon,
    rdp_epsilon,
)
from dpjax.accounting.events import Relation

EPSILON_OF = {"exact": exact_epsilon, "pld": pld_epsilon, "rdp": rdp_epsilon}

# Runs with the noise multiplier that the true epsilon asks for, and the one that the
# Renyi bound at dp_accounting's default orders does: other orders may ask for less.
RUNS = [
    (0.02048, 10_000, 1e-5, 2.27535, 3.7217862559340493, 3.998878580661093),
    (0.004, 15_000, 1e-5, 0.1, 15.093027926555719, 16.68181651364111),
    (0.001, 2_000, 1e-8, 4.0, 0.5865910690066916, 0.6275318221590668),
    (0.01, 1_000, 1e-12, 2.0, 1.3665243096787798, 1.4652421283548718),
    (1.0, 100, 1e-5, 8.0, 6.002290721991518, 6.376702852133185),
]


@pytest.mark.parametrize("accountant", ["exact", "pld", "rdp"])
@pytest.mark.parametrize("run", RUNS, ids=str)
def test_noise_is_the_least_that_keeps_the_target(run, accountant):
    rate, steps, delta, target, exact, renyi = run
    run = {"sampling_prob": rate, "num_steps": steps, "delta": delta}
    noise = calibrate_noise_multiplier(
        target_epsilon=target, accountant=accountant, **run
    )
    spent = EPSILON_OF[accountant](noise_multiplier=noise, **run)
    assert target * (1 - 1e-4) <= spent <= target
    assert exact * (1 - 1e-9) <= noise <= renyi * (1 + 1e-4)
    slack = {"exact": 2e-9, "pld": 1e-4, "rdp": 1.0}[accountant]
    assert noise == pytest.approx(exact, rel=slack)


# Runs with the largest number of steps by the true epsilon, and by the Renyi bound.
@pytest.mark.parametrize(
    ("noise", "rate", "delta", "target", "exact", "renyi"),
    [
        (4.0, 0.02048, 1e-5, 2.27535, 11_622, 10_005),
        (3.0, 0.08192, 1e-5, 8.0, 3_477, 3_066),
        (2.5, 0.012788340630066182, 8e-7, 8.0, 81_065, 72_721),
    ],
)
@pytest.mark.parametrize("accountant", ["exact", "pld", "rdp"])
def test_steps_are_the_most_that_keep_the_target(
    noise, rate, delta, target, exact, renyi, accountant
):
    run = {"noise_multiplier": noise, "sampling_prob": rate, "delta": delta}
    steps = calibrate_num_steps(target_epsilon=target, accountant=accountant, **run)
    spent = EPSILON_OF[accountant]
    assert spent(num_steps=steps, **run) <= target < spent(num_steps=steps + 1, **run)
    assert renyi <= steps * (1 + 4e-4)
    assert steps <= exact
    if accountant != "rdp":
        assert steps == pytest.approx(exact, rel={"exact": 0, "pld": 4e-4}[accountant])


def test_a_target_is_kept_when_a_number_of_steps_meets_it_exactly():
    run = {"noise_multiplier": 2.0, "sampling_prob": 0.1, "delta": 1e-5}
    target = rdp_epsilon(num_steps=17, **run)
    steps = calibrate_num_steps(target_epsilon=target, accountant="rdp", **run)
    assert steps == 17


@pytest.mark.parametrize("relation", list(Relation))
def test_any_event_can_be_calibrated_under_any_relation(relation):
    def make_event(noise):
        return dp_accounting.ComposedDpEvent(
            [sampled(noise, 0.05, 40), dp_accounting.GaussianDpEvent(5 * noise)]
        )

    noise = calibrate_event(
        make_event, target_epsilon=1.0, delta=1e-5, relation=relation
    )
    spent = event_epsilon(make_event(noise), 1e-5, relation=relation)
    assert 1 - 1e-4 <= spent <= 1


def test_a_target_below_what_other_parts_cost_names_the_nearest():
    fixed = dp_accounting.GaussianDpEvent(
        1.0
    )  # 4.377 at delta 1e-5, whatever is added.

    def make_event(noise):
        return dp_accounting.ComposedDpEvent(
            [fixed, dp_accounting.GaussianDpEvent(noise)]
        )

    with pytest.raises(AccountingError, match=r"at least 4\.377.*target_epsilon=1\.0"):
        calibrate_event(make_event, target_epsilon=1.0, delta=1e-5)


def test_a_target_that_needs_no_noise_names_the_nearest():
    # One of 10^9 examples is ever looked at: with delta = 1e-3 this costs nothing.
    with pytest.raises(AccountingError, match=r"at most 0, .*target_epsilon=1\.0"):
        calibrate_event(
            lambda noise: sampled(noise, 1e-9), target_epsilon=1.0, delta=1e-3
        )


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_target_below_the_cost_of_one_step_names_that_cost(noise, accountant):
    run = {"noise_multiplier": noise, "sampling_prob": 0.5, "delta": 1e-5}
    cost = EPSILON_OF[accountant](num_steps=1, **run)
    with pytest.raises(AccountingError, match=f"at least {cost:.6g}, which one step"):
        calibrate_num_steps(target_epsilon=0.5, accountant=accountant, **run)


def test_a_target_beyond_any_run_is_refused():
    with pytest.raises(AccountingError, match=r"which 2\^33 steps costs"):
        calibrate_num_steps(
            target_epsilon=1.0,
            delta=1e-2,
            noise_multiplier=1.0,
            sampling_prob=1e-13,
        )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"target_epsilon": 0.0}, "target_epsilon=0.0"),
        ({"target_epsilon": float("inf")}, "target_epsilon=inf"),
        ({"delta": 0.0}, "delta=0.0"),
        ({"sampling_prob": 0.0}, "sampling_prob=0.0"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"accountant": "gdp"}, "'rdp', 'certified', got accountant='gdp'"),
    ],
)
def test_a_setting_out_of_range_is_named(wrong, message):
    run = {"target_epsilon": 1.0, "delta": 1e-5, "sampling_prob": 0.1, "num_steps": 9}
    with pytest.raises(ValueError, match=message):
        calibrate_noise_multiplier(**(run | wrong))


# Noise multipliers of the exact accountant, from the reference cases.
PUBLISHED = [
    (0.1, 512, 1e-6, 1.0, 9.661757281950312),
    (0.0001, 1_000_000, 1e-6, 1.0, 0.7325731818),
]


@pytest.mark.parametrize("accountant", ["exact", "pld"])
def test_the_sampling_probability_is_the_largest_that_keeps_the_target(accountant):
    run = {"noise_multiplier": 2.0, "num_steps": 500, "delta": 1e-6}
    rate = calibrate_sampling_prob(target_epsilon=1.5, accountant=accountant, **run)
    epsilon_of = EPSILON_OF[accountant]
    precision = {"exact": 1e-8, "pld": 1e-4}[accountant]
    assert 1.5 * (1 - precision) <= epsilon_of(sampling_prob=rate, **run) <= 1.5
    assert epsilon_of(sampling_prob=rate * (1 + 2 * precision), **run) > 1.5


@pytest.mark.parametrize("run", PUBLISHED, ids=str)
def test_sampling_and_noise_calibrations_undo_each_other(run):
    rate, steps, delta, target, noise = run
    found = calibrate_sampling_prob(
        target_epsilon=target, delta=delta, noise_multiplier=noise, num_steps=steps
    )
    assert found == pytest.approx(rate, rel=1e-7)


def test_a_batch_of_whole_examples_is_the_largest_within_the_target():
    run = {"noise_multiplier": 2.0, "num_steps": 500, "delta": 1e-6}
    rate = calibrate_sampling_prob(target_epsilon=1.5, num_examples=10_007, **run)
    batch = round(rate * 10_007)
    assert rate == batch / 10_007
    assert exact_epsilon(sampling_prob=rate, **run) <= 1.5
    assert exact_epsilon(sampling_prob=(batch + 1) / 10_007, **run) > 1.5


def test_the_whole_data_set_is_sampled_where_that_keeps_the_target():
    run = {"noise_multiplier": 100.0, "num_steps": 10, "delta": 1e-6}
    assert calibrate_sampling_prob(target_epsilon=1.5, **run) == 1.0
    whole = calibrate_sampling_prob(target_epsilon=1.5, num_examples=7, **run)
    assert whole == 1.0


def test_a_target_below_the_cost_of_one_example_names_that_cost():
    run = {"noise_multiplier": 0.5, "num_steps": 500, "delta": 1e-6}
    cost = exact_epsilon(sampling_prob=0.1, **run)
    with pytest.raises(AccountingError, match=f"at least {cost:.6g}.*of one example"):
        calibrate_sampling_prob(target_epsilon=1.0, num_examples=10, **run)
