"""Filters: budgets that hold for releases that are chosen by earlier ones."""

import math

import dp_accounting
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dpjax import DPSGD, accounting, sampling
from dpjax.accounting import AccountingError, Budget, BudgetExceeded
from dpjax.accounting.ledgers.filters import (
    ConcentratedFilter,
    GaussianFilter,
    budget_rho,
)
from dpjax.accounting.ledgers.renyi_filter import RenyiFilter, default_orders

GAUSSIAN = dp_accounting.GaussianDpEvent
REPLACE = dp_accounting.NeighboringRelation.REPLACE_ONE
BUDGET = Budget(epsilon=3.0, delta=1e-5)
FILTERS = [RenyiFilter, ConcentratedFilter, GaussianFilter]


def sampled(noise, rate):
    return dp_accounting.PoissonSampledDpEvent(rate, GAUSSIAN(noise))


def steps_of(admitting, event):
    """Return how many times an event is admitted."""
    count = 0
    while admitting.admits(event):
        admitting.spend(event, "step")
        count += 1
    return count


def exact(entries, delta=BUDGET.delta):
    composed = dp_accounting.ComposedDpEvent(
        [dp_accounting.SelfComposedDpEvent(e.event, e.times) for e in entries]
    )
    return accounting.event_epsilon(composed, delta)


@pytest.mark.parametrize("make", FILTERS)
@given(noises=st.lists(st.floats(1.0, 50.0), min_size=1, max_size=60))
def test_what_is_admitted_never_exceeds_the_budget(make, noises):
    admitting = make(BUDGET)
    for noise in noises:
        if admitting.admits(GAUSSIAN(noise)):
            admitting.spend(GAUSSIAN(noise), "step")
        else:
            before = admitting.entries
            with pytest.raises(BudgetExceeded, match="epsilon 3") as caught:
                admitting.spend(GAUSSIAN(noise), "step")
            assert caught.value.epsilon > BUDGET.epsilon
            assert admitting.entries == before
    assert exact(admitting.entries) <= BUDGET.epsilon


@pytest.mark.parametrize("make", FILTERS)
@given(noise=st.floats(2.0, 20.0), more=st.floats(1.0, 3.0))
def test_an_event_of_more_noise_is_admitted_wherever_one_of_less_is(make, noise, more):
    admitting = make(BUDGET)
    for _ in range(5):
        if admitting.admits(GAUSSIAN(noise)):
            assert admitting.admits(GAUSSIAN(noise * more))
            admitting.spend(GAUSSIAN(noise), "step")


def test_releases_of_one_kind_fit_as_often_as_their_renyi_divergence_says():
    for order in (2.5, 8.0, 30.0):
        offset = math.log1p(-1 / order) - math.log(order * 1e-5) / (order - 1)
        limit = BUDGET.epsilon - offset
        if limit <= 0:
            with pytest.raises(ValueError, match="leave a part of epsilon 3"):
                RenyiFilter(BUDGET, orders=[order])
            continue
        wanted = math.floor(limit / (order / (2 * 20.0**2)) * (1 - 1e-9))
        assert steps_of(RenyiFilter(BUDGET, orders=[order]), GAUSSIAN(20.0)) == wanted


def test_the_concentrated_filter_adds_up_rho():
    rho = budget_rho(BUDGET)
    wanted = math.floor(rho * 2 * 20.0**2 * (1 - 1e-9))
    assert steps_of(ConcentratedFilter(BUDGET), GAUSSIAN(20.0)) == wanted
    event = ConcentratedFilter(BUDGET).event
    spent = accounting.event_epsilon(event, 1e-5, accountant="rdp")
    assert BUDGET.epsilon * (1 - 1e-4) < spent <= BUDGET.epsilon
    zcdp = dp_accounting.ZCDpEvent(rho / 10)
    assert steps_of(ConcentratedFilter(BUDGET), zcdp) in (9, 10)


def test_the_gaussian_filter_admits_what_the_exact_accountant_does():
    best = accounting.calibrate_num_steps(
        target_epsilon=3.0, delta=1e-5, noise_multiplier=20.0, sampling_prob=1.0
    )
    assert steps_of(GaussianFilter(BUDGET), GAUSSIAN(20.0)) in (best - 1, best)
    event = GaussianFilter(BUDGET).event
    assert accounting.event_epsilon(event, 1e-5) == pytest.approx(3.0, rel=1e-6)


def test_filters_differ_in_how_much_of_the_budget_they_can_use():
    counts = [steps_of(make(BUDGET), GAUSSIAN(20.0)) for make in FILTERS]
    renyi, concentrated, gaussian = counts
    assert renyi < concentrated < gaussian
    assert renyi > 0.75 * gaussian
    alone = [
        steps_of(RenyiFilter(BUDGET, orders=[order]), GAUSSIAN(20.0))
        for order in default_orders(BUDGET)
    ]
    assert renyi < max(alone) <= concentrated  # The price of several orders.


def test_sampled_steps_are_amplified_by_the_renyi_filter_alone():
    step = sampled(1.0, 0.01)
    renyi = RenyiFilter(BUDGET)
    renyi.spend(dp_accounting.SelfComposedDpEvent(step, 1200), "steps")
    assert exact(renyi.entries) < BUDGET.epsilon
    assert steps_of(ConcentratedFilter(BUDGET), step) < 10
    with pytest.raises(AccountingError, match="plain Gaussian"):
        GaussianFilter(BUDGET).admits(step)


def needed_and_had(sampler):
    """Return what the Renyi filter needs for 40 steps, and what the run has."""
    plan = DPSGD(
        num_examples=4000,
        expected_batch_size=100,
        num_steps=40,
        l2_norm_clip=1.0,
        noise_multiplier=4.0,
        sampler=sampler,
    )
    admitting = RenyiFilter(BUDGET, relation=plan.neighboring_relation)
    return admitting._epsilon_with(plan.event()), plan.epsilon(BUDGET.delta)


def test_some_samplers_are_charged_far_more_than_they_spend():
    needed, had = needed_and_had(sampling.FixedSizeWithReplacement())
    assert needed == pytest.approx(1.7e5, rel=0.05)
    assert had == pytest.approx(0.55, abs=0.005)
    assert needed_and_had(sampling.FixedSize())[0] < 0.7


@pytest.mark.parametrize(
    ("sampler", "takes_part"),
    [(sampling.BallsInBins(), 1), (sampling.RandomAllocation(10), 10)],
)
def test_balls_in_bins_are_not_amplified_by_the_renyi_filter(sampler, takes_part):
    needed, had = needed_and_had(sampler)
    plain = dp_accounting.SelfComposedDpEvent(GAUSSIAN(4.0), takes_part)
    assert needed == pytest.approx(RenyiFilter(BUDGET)._epsilon_with(plain))
    assert needed > 8 * had


def test_replacing_an_example_costs_four_times_as_much():
    for make in FILTERS:
        adding = steps_of(make(BUDGET), GAUSSIAN(20.0))
        replacing = steps_of(make(BUDGET, relation=REPLACE), GAUSSIAN(20.0))
        assert adding // 4 - 1 <= replacing <= adding // 4 + 1


@pytest.mark.parametrize("make", FILTERS)
def test_what_has_no_noise_is_refused_and_what_releases_nothing_is_free(make):
    admitting = make(BUDGET)
    assert not admitting.admits(dp_accounting.NonPrivateDpEvent())
    with pytest.raises(BudgetExceeded, match="infinite"):
        admitting.spend(dp_accounting.NonPrivateDpEvent(), "bare")
    for _ in range(3):
        admitting.spend(dp_accounting.NoOpDpEvent(), "public")
    assert len(admitting.entries) == 3
    assert admitting.budget == BUDGET


# An adversary: normal outputs of mean 1 or 0, of noise that it chooses as it goes.


class Game:
    """One course of a game under the data of mean 1; `.loss` is its privacy loss."""

    def __init__(self, generator):
        self.generator, self.loss = generator, 0.0

    def play(self, noise):
        output = self.generator.normal(1.0, noise)
        self.loss += (output - 0.5) / noise**2


NOISES = (1.5, 2.0, 3.0, 6.0)


def greedy(game):
    """Bet more the closer the loss comes to what would break the promise."""
    return NOISES[::-1] if game.loss < 0 else NOISES


def play_to_the_end(admitting, game):
    while True:
        chosen = next((n for n in greedy(game) if admitting.admits(GAUSSIAN(n))), None)
        if chosen is None:
            return game.loss
        admitting.spend(GAUSSIAN(chosen), "bet")
        game.play(chosen)


@pytest.mark.parametrize("make", FILTERS)
def test_no_adaptive_strategy_seen_here_breaks_the_promise(make):
    # E(1 - e^(epsilon - L))+ is the delta that this strategy reaches.
    generator = np.random.default_rng(3)
    budget = Budget(epsilon=1.0, delta=0.05)
    losses = np.array(
        [play_to_the_end(make(budget), Game(generator)) for _ in range(150)]
    )
    reached = np.maximum(0, -np.expm1(budget.epsilon - losses))
    error = reached.std() / math.sqrt(losses.size)
    assert reached.mean() <= budget.delta + 3 * error
    assert losses.std() > 0.3  # The game is played.


def test_to_choose_by_the_outputs_breaks_the_epsilon_of_what_came_about():
    # Stop as soon as the loss is above the exact epsilon of the steps so far: what came
    # about has that epsilon on paper, and the loss exceeds it far too often.
    generator = np.random.default_rng(0)
    noise, delta, courses, steps = 20.0, 0.02, 4000, 400
    outputs = generator.normal(1.0, noise, size=(courses, steps))
    losses = np.cumsum((outputs - 0.5) / noise**2, axis=1)
    mu = np.sqrt(np.arange(1, steps + 1)) / noise
    # P(L > epsilon) = delta: no smaller than the epsilon of (epsilon, delta).
    naive = mu**2 / 2 + mu * stats.norm.isf(delta)
    broken = np.mean(np.any(losses > naive, axis=1))
    fixed = np.mean(losses[:, -1] > naive[-1])
    assert abs(fixed - delta) < 5 * math.sqrt(delta / courses)
    assert broken > 4 * delta


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: RenyiFilter(None), TypeError, "budget"),
        (lambda: RenyiFilter((0.0, 1e-5)), ValueError, "budget.epsilon"),
        (lambda: RenyiFilter(BUDGET, orders=[1.0]), ValueError, "orders"),
        (lambda: RenyiFilter(BUDGET, orders=[]), ValueError, "orders"),
        (lambda: GaussianFilter((1.0, 1.0)), ValueError, "budget.delta"),
        (lambda: RenyiFilter(BUDGET, relation="all"), TypeError, "relation"),
        (lambda: RenyiFilter(BUDGET).spend(None, "x"), TypeError, "event"),
        (lambda: RenyiFilter(BUDGET).spend(GAUSSIAN(9.0), ""), ValueError, "label"),
        (
            lambda: RenyiFilter(BUDGET).admits(dp_accounting.UnsupportedDpEvent()),
            AccountingError,
            "event",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
