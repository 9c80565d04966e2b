"""Individual accounting: each example leaves when its own budget is used."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dpjax
from dpjax import accounting
from dpjax.accounting import Budget
from dpjax.accounting.ledgers.individual_filter import IndividualFilter

BUDGET = Budget(epsilon=1.0, delta=1e-5)
TOTAL = IndividualFilter(1, BUDGET).event.noise_multiplier ** -2


@given(st.lists(st.lists(st.floats(0, 5), min_size=4, max_size=4), max_size=40))
def test_no_example_ever_spends_more_than_the_budget(norms):
    individual = IndividualFilter(4, BUDGET)
    spent = np.zeros(4)
    for row in norms:
        entered = individual.enter(row, noise_stddev=8.0)
        spent += np.where(entered, np.square(row) / 64, 0)
    assert np.all(spent <= individual.spent * (1 + 1e-9) + 1e-12)
    assert np.all(individual.spent <= TOTAL)


def test_the_event_has_the_budget_s_epsilon():
    event = IndividualFilter(3, BUDGET).event
    assert 0.9999 < accounting.event_epsilon(event, 1e-5) <= 1.0


@given(st.floats(0.1, 3.0), st.floats(5.0, 30.0))
def test_an_example_stays_for_as_many_steps_as_its_norm_allows(norm, noise):
    individual = IndividualFilter(1, BUDGET)
    limit = TOTAL * noise**2 / norm**2
    count = 0
    while count <= min(limit, 300) and individual.enter([norm], noise)[0]:
        count += 1
    assert min(limit, 300) * (1 - 1e-5) - 1 <= count <= min(limit, 300) + 1


def test_examples_of_norm_zero_or_not_finite_cost_nothing():
    individual = IndividualFilter(4, BUDGET)
    entered = individual.enter([0.0, np.nan, np.inf, 1e-30], noise_stddev=1e-3)
    assert entered.tolist() == [True, False, False, True]
    assert np.all(individual.spent <= 1e-50)


def test_what_one_example_does_changes_nothing_for_the_others():
    one, other = IndividualFilter(3, BUDGET), IndividualFilter(3, BUDGET)
    generator = np.random.default_rng(0)
    for _ in range(50):
        norms = generator.uniform(size=3)
        changed = norms * [1, 1, 30]
        a, b = one.enter(norms, 3.0), other.enter(changed, 3.0)
        assert a[:2].tolist() == b[:2].tolist()
    assert not one.enter(np.ones(3), 1.0).all()


def test_an_example_that_cannot_afford_a_step_may_enter_a_cheaper_one():
    individual = IndividualFilter(1, BUDGET)
    assert not individual.enter([1.0], noise_stddev=1.0)[0]
    assert individual.enter([1.0], noise_stddev=10.0)[0]


def test_batches_charge_their_own_examples_and_padding_is_free():
    individual = IndividualFilter(5, BUDGET)
    entered = individual.enter(
        [1.0, 1.0, np.nan],
        10.0,
        indices=[3, 1, 1],
        mask=np.array([True, True, False]),
    )
    assert entered.tolist() == [True, True, False]
    assert np.flatnonzero(individual.spent).tolist() == [1, 3]


def test_a_resumed_run_goes_on_where_it_stopped():
    norms = np.array([1.0, 0.3])
    whole = IndividualFilter(2, BUDGET)
    steps = [whole.enter(norms, 10.0) for _ in range(12)]
    first = IndividualFilter(2, BUDGET)
    again = [first.enter(norms, 10.0) for _ in range(5)]
    second = IndividualFilter(2, BUDGET, spent=first.spent)
    again += [second.enter(norms, 10.0) for _ in range(7)]
    np.testing.assert_array_equal(steps, again)
    first.spent[:] = 0  # A copy: nothing is given back.
    assert first.spent.all()


def test_an_adversary_who_chooses_noise_and_norms_by_outputs_keeps_to_the_promise():
    # One example adds `norm` or nothing to an otherwise empty sum; the course is under
    # the data that hold it. The loss of all steps is what the budget is about.
    generator = np.random.default_rng(5)
    budget = Budget(epsilon=1.0, delta=0.05)
    losses = []
    for _ in range(400):
        individual, loss = IndividualFilter(1, budget), 0.0
        for _ in range(25):
            norm, noise = (1.0, 2.0) if loss > 0 else (0.7, 4.0)
            if individual.enter([norm], noise)[0]:
                output = generator.normal(norm, noise)
                loss += norm * (output - norm / 2) / noise**2
        losses.append(loss)
    reached = np.maximum(0, -np.expm1(budget.epsilon - np.array(losses)))
    error = reached.std() / math.sqrt(len(losses))
    assert 0 < reached.mean() <= budget.delta + 3 * error


def test_the_mask_goes_into_the_clipped_sum():
    x = jnp.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.1]])
    fn = dpjax.clipped_grad(lambda w, row: w @ row, 1.0)
    norms = fn(jnp.zeros(2), x).per_example.grad_norm_bound
    individual = IndividualFilter(3, BUDGET)
    while individual.enter(np.minimum(norms, 1.0), 6.0)[0]:
        pass
    mask = individual.enter(np.minimum(norms, 1.0), 6.0)
    assert mask.tolist() == [False, True, True]
    total = fn(jnp.zeros(2), x, mask=jnp.asarray(mask)).sum
    np.testing.assert_allclose(total, [0.3, 0.5], rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: f.enter([1.0, 1.0], 1.0), ValueError, "norms.shape"),
        (lambda f: f.enter([-1.0, 1.0, 1.0], 1.0), ValueError, "norms >= 0"),
        (lambda f: f.enter([1.0] * 3, 0.0), ValueError, "noise_stddev"),
        (lambda f: f.enter([1.0], 1.0, indices=[3]), ValueError, "indices"),
        (lambda f: f.enter([1.0], 1.0, indices=[-1]), ValueError, "indices"),
        (lambda f: f.enter([1.0], 1.0, indices=[0.0]), TypeError, "indices.dtype"),
        (lambda f: f.enter([1.0] * 2, 1.0, indices=[1, 1]), ValueError, "twice"),
        (lambda f: f.enter([1.0] * 3, 1.0, mask=[1, 0, 1]), ValueError, "mask"),
        (lambda _: IndividualFilter(0, BUDGET), ValueError, "num_examples"),
        (lambda _: IndividualFilter(3, None), TypeError, "budget"),
        (lambda _: IndividualFilter(3, BUDGET, spent=[0.0]), ValueError, "spent"),
        (lambda _: IndividualFilter(1, BUDGET, spent=[9.0]), ValueError, "spent"),
    ],
)
def test_arguments_out_of_range_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(IndividualFilter(3, BUDGET))
