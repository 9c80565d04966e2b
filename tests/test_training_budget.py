"""What logged steps cost, and how many steps a budget pays for."""

import dataclasses

import pytest
from dp_accounting import NeighboringRelation

from dpjax import mechanism, sampling
from dpjax.training import budget

POISSON = mechanism.DPSGD(
    num_examples=1000,
    expected_batch_size=100,
    num_steps=60,
    l2_norm_clip=1.0,
    noise_multiplier=1.0,
)
SHUFFLED = dataclasses.replace(
    POISSON, sampler=sampling.ShuffledEpochs(), relation=None, noise_multiplier=4.0
)
PLANS = {
    "poisson": POISSON,
    "replaced": dataclasses.replace(POISSON, relation=NeighboringRelation.REPLACE_ONE),
    "fixed": dataclasses.replace(POISSON, sampler=sampling.FixedSize()),
    "cyclic": dataclasses.replace(POISSON, sampler=sampling.CyclicPoisson(5)),
    "shuffled": SHUFFLED,
}


@pytest.mark.parametrize(
    ("num_steps", "every", "expected"),
    [(7, 3, [3, 6, 7]), (6, 3, [3, 6]), (2, 5, [2]), (0, 1, []), (3, 1, [1, 2, 3])],
)
def test_every_few_steps_and_the_last_are_logged(num_steps, every, expected):
    assert budget.logged_steps(num_steps, every) == expected


@pytest.mark.parametrize("mechanism_", PLANS.values(), ids=PLANS)
def test_the_table_agrees_with_the_mechanism(mechanism_):
    steps = [1, 9, 10, 11, 25, 59, 60]
    table = budget.epsilon_table(mechanism_, 1e-5, steps)
    assert list(table) == steps
    for step, row in table.items():
        assert list(row) == ["exact", "pld", "rdp"]
        for accountant, value in row.items():
            alone = mechanism_.epsilon(1e-5, step=step, accountant=accountant)
            assert value == pytest.approx(float(alone), rel=1e-4)


def test_shuffled_epochs_cost_the_same_from_an_epochs_first_step_to_its_last():
    table = budget.epsilon_table(SHUFFLED, 1e-5, list(range(1, 61)))
    by_epoch = {table[step]["exact"] for step in table}
    assert len(by_epoch) == 6
    assert table[11] == table[20] != table[21]


@pytest.mark.parametrize(
    ("mechanism_", "last"),
    [(POISSON, last) for last in (0, 1, 10, 37, 59)]
    # An epoch of ten steps is paid for at its first.
    + [(SHUFFLED, last) for last in (0, 10, 50)],
)
def test_the_budget_pays_for_all_steps_within_it_and_no_more(mechanism_, last):
    spent, next_one = (mechanism_.epsilon(1e-5, step=last + more) for more in (0, 1))
    between = (spent + next_one) / 2
    assert budget.affordable_steps(mechanism_, 1e-5, between) == last


def test_a_budget_met_exactly_is_not_passed():
    exact = POISSON.epsilon(1e-5, step=20)
    assert budget.affordable_steps(POISSON, 1e-5, exact) == 20
    assert budget.affordable_steps(POISSON, 1e-5, POISSON.epsilon(1e-5)) == 60
    assert budget.affordable_steps(POISSON, 1e-5, 1e9) == 60
