import dataclasses
import json
import math

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from correlated_cases import banded
from dp_accounting import NeighboringRelation
from released import PARAMS, examples, loss_fn

from dpjax import accounting, sampling
from dpjax.accounting import AccountingError
from dpjax.mechanism import DPSGD
from dpjax.mechanism.matrix_factorization import DPMatrixFactorization
from dpjax.noise import correlated
from dpjax.noise.correlated import max_error
from dpjax.optimizers import check_optimizer, privacy_spent

DELTA = 1e-5
PLAN = DPMatrixFactorization(
    num_examples=1000,
    expected_batch_size=100,
    num_steps=30,
    l2_norm_clip=0.5,
    noise_multiplier=1.1,
    strategy=correlated.banded_inverse_square_root(4),
)
AMPLIFIED = dataclasses.replace(
    PLAN, sampler=sampling.CyclicPoisson(5), strategy=correlated.square_root(5)
)
PLANS = {
    "deterministic": PLAN,
    "identity": dataclasses.replace(PLAN, strategy=correlated.Identity()),
    "shuffled": dataclasses.replace(PLAN, sampler=sampling.ShuffledEpochs()),
    "tree": dataclasses.replace(PLAN, strategy=correlated.BinaryTree()),
    "banded": dataclasses.replace(PLAN, strategy=banded(steps=30, bands=5)),
    "separated": dataclasses.replace(PLAN, sampler=sampling.BMinSep(5)),
    "amplified": AMPLIFIED,
    "too many bands": dataclasses.replace(
        AMPLIFIED, strategy=correlated.square_root(6)
    ),
    "replace one": dataclasses.replace(PLAN, relation=NeighboringRelation.REPLACE_ONE),
}
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


# The event.


@every_plan
def test_the_event_is_one_gaussian_or_sampled_ones(plan):
    gaussian = dp_accounting.GaussianDpEvent(1.1)
    if plan is AMPLIFIED:
        sampled = dp_accounting.PoissonSampledDpEvent(0.5, gaussian)
        assert plan.event() == dp_accounting.SelfComposedDpEvent(sampled, 6)
    else:
        assert plan.event() == gaussian


@every_plan
def test_epsilon_is_that_of_the_event_under_the_relation(plan):
    relation = plan.neighboring_relation
    expected = accounting.event_epsilon(plan.event(), DELTA, relation=relation)
    assert plan.epsilon(DELTA) == expected


def test_replacing_an_example_costs_twice_the_sensitivity():
    half = dataclasses.replace(PLAN, noise_multiplier=0.55)
    found = PLANS["replace one"].epsilon(DELTA)
    assert float(found) == pytest.approx(float(half.epsilon(DELTA)), rel=1e-6)


def test_independent_noise_costs_what_dp_sgd_on_the_same_batches_does():
    # Three epochs of Gaussian releases: a noise multiplier sqrt(3) times as large.
    found = PLANS["identity"]
    plain = DPSGD(
        num_examples=1000,
        expected_batch_size=100,
        num_steps=30,
        l2_norm_clip=0.5,
        noise_multiplier=1.1 * math.sqrt(3),
        sampler=sampling.Deterministic(),
    )
    assert float(found.epsilon(DELTA)) == pytest.approx(float(plain.epsilon(DELTA)))
    np.testing.assert_allclose(found.noise_stddevs, plain.noise_stddev)


def test_cyclic_sampling_with_one_band_is_dp_sgd_with_cyclic_sampling():
    found = dataclasses.replace(AMPLIFIED, strategy=correlated.Identity())
    plain = DPSGD(
        num_examples=1000,
        expected_batch_size=100,
        num_steps=30,
        l2_norm_clip=0.5,
        noise_multiplier=1.1,
        sampler=sampling.CyclicPoisson(5),
    )
    assert found.event() == plain.event()
    assert found.noise_stddevs[0] == pytest.approx(plain.noise_stddev)


@every_plan
def test_fewer_steps_cost_no_more_and_none_cost_nothing(plan):
    steps = [0, 1, 4, 11, 29, 30]
    curve = plan.epsilon_curve(DELTA, steps)
    assert curve[0] == 0
    assert np.all(np.diff(curve) >= -1e-9)
    assert curve[-1] == float(plan.epsilon(DELTA))


def test_fewer_steps_are_accounted_with_the_noise_that_they_had():
    part = dataclasses.replace(
        PLAN,
        num_steps=11,
        noise_multiplier=1.1
        * PLAN.strategy_sensitivity.value
        / correlated.sensitivity(PLAN.strategy, 11, PLAN.participation).value,
    )
    found = PLAN.epsilon(DELTA, step=11)
    assert float(found) == pytest.approx(float(part.epsilon(DELTA)))
    np.testing.assert_allclose(PLAN.noise_stddevs[:11], part.noise_stddevs)


def test_the_ledger_holds_the_event():
    ledger = PLAN.ledger(step=30)
    assert float(ledger.epsilon(DELTA)) == pytest.approx(float(PLAN.epsilon(DELTA)))
    with pytest.raises(accounting.BudgetExceeded):
        PLAN.ledger(budget=accounting.Budget(epsilon=0.1, delta=DELTA))


# Calibration.


@pytest.mark.parametrize("name", ["deterministic", "amplified", "replace one"])
@pytest.mark.parametrize("target", [0.5, 4.0])
def test_calibration_never_passes_the_target_and_wastes_little(name, target):
    plan = PLANS[name].calibrate(target, DELTA)
    assert plan.epsilon(DELTA) <= target
    less = dataclasses.replace(plan, noise_multiplier=plan.noise_multiplier * 0.999)
    assert less.epsilon(DELTA) > target


def test_without_a_noise_multiplier_it_says_what_to_do():
    plan = dataclasses.replace(PLAN, noise_multiplier=None)
    with pytest.raises(ValueError, match="calibrate"):
        plan.epsilon(DELTA)


# What is claimed is what is released.


@pytest.mark.parametrize(
    "name", ["deterministic", "shuffled", "tree", "banded", "amplified"]
)
def test_the_released_noise_has_the_multiplier_of_the_event(name):
    plan, size = PLANS[name], 5000
    optimizer = plan.optimizer(optax.sgd(1.0), key=3)
    params = jnp.zeros(size)
    state = optimizer.init(params)
    step = jax.jit(lambda state: optimizer.update(jnp.zeros((2, size)), state, params))
    rows = []
    for _ in range(plan.num_steps):
        update, state = step(state)
        rows.append(update)
    noise = -np.asarray(rows, np.float64)
    slack = 5 / math.sqrt(2 * size)
    np.testing.assert_allclose(noise.std(axis=1), plan.noise_stddevs, rtol=slack)
    # The sums over steps, which is where noise was to cancel.
    variances = plan.strategy.variances(plan.num_steps, np.ones(plan.num_steps))
    scale = 1.1 * 0.5 * plan.strategy_sensitivity.value / 100
    found = np.cumsum(noise, axis=0).std(axis=1)
    np.testing.assert_allclose(found, scale * np.sqrt(variances), rtol=slack)
    for factor in (2 / 3, 3 / 2):
        assert not np.allclose(found * factor, scale * np.sqrt(variances), rtol=slack)
    spent = privacy_spent(state, DELTA).epsilon
    assert spent == pytest.approx(float(plan.epsilon(DELTA)), rel=1e-6)


@pytest.mark.parametrize("changed", [0, 57, 104])
@pytest.mark.parametrize(
    "sampler",
    [
        sampling.Deterministic(),
        sampling.ShuffledEpochs(),
        sampling.CyclicPoisson(4),
        sampling.BMinSep(4),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "strategy",
    [correlated.BinaryTree(), correlated.Toeplitz((1.0, -0.7, 0.6, -0.5, 0.4))],
    ids=["tree", "signed"],
)
def test_no_example_moves_the_encoded_sums_by_more_than_is_claimed(
    strategy, sampler, changed
):
    plan = dataclasses.replace(
        PLAN,
        num_examples=105,
        expected_batch_size=10,
        strategy=strategy,
        sampler=sampler,
    )
    # An example that contributes its sign times the clip norm against one of nothing.
    signs = np.random.default_rng(changed).choice([-1.0, 1.0], size=plan.num_steps)
    steps = [
        any(changed in chunk.indices[chunk.mask] for chunk in chunks)
        for chunks in plan.batches(11)
    ]
    moved = 0.5 * plan.strategy.matrix(plan.num_steps) @ (signs * steps)
    claimed = plan.strategy_sensitivity.value * plan.sensitivity
    assert np.linalg.norm(moved) <= claimed * (1 + 1e-12)


def test_sums_have_less_noise_than_those_of_dp_sgd_at_the_same_epsilon():
    plans = [
        dataclasses.replace(PLAN, strategy=strategy)
        for strategy in (
            correlated.optimize_toeplitz(30, 10, correlated.Cyclic(10)),
            correlated.Identity(),
        )
    ]
    errors = [
        plan.strategy_sensitivity.value
        * math.sqrt(np.mean(plan.strategy.variances(30, np.ones(30))))
        for plan in plans
    ]
    assert plans[0].event() == plans[1].event()
    assert errors[0] < 0.75 * errors[1]


def excess_loss(plan, seed):
    """Return the loss above the least one, after private linear regression."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(plan.num_examples, 10))
    y = x @ generator.normal(size=10)
    rows = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    optimizer = plan.optimizer(optax.sgd(0.05), key=seed)
    gradient = plan.clipped_grad(lambda w, x, y: 0.5 * (x @ w - y) ** 2)

    @jax.jit
    def step(params, state, indices, mask):
        batch = [leaf[indices] for leaf in rows]
        grads = gradient(params, *batch, mask=mask)
        update, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, update), state

    params = jnp.zeros(10)
    state = optimizer.init(params)
    for ((indices, mask),) in plan.batches(seed):
        params, state = step(params, state, indices, mask)
    return float(np.mean((x @ np.asarray(params) - y) ** 2) / 2)


@pytest.mark.slow
def test_without_sampling_it_trains_better_than_dp_sgd_at_the_same_epsilon():
    # Near the optimum of a loss of curvature one, a step of size 0.05 forgets as much
    # of all steps before: as weight decay does. The last step is what counts.
    forgetful = correlated.workload(100, weight_decay=0.05)
    plan = DPMatrixFactorization(
        num_examples=1000,
        expected_batch_size=50,
        num_steps=100,
        l2_norm_clip=5.0,
        strategy=correlated.optimize_toeplitz(
            100, 20, correlated.Cyclic(20), workload=forgetful, error=max_error
        ),
    ).calibrate(1.0, DELTA)
    plain = DPSGD(
        num_examples=1000,
        expected_batch_size=50,
        num_steps=100,
        l2_norm_clip=5.0,
        sampler=sampling.Deterministic(),
    ).calibrate(1.0, DELTA)
    ours, theirs = ([excess_loss(p, seed) for seed in range(8)] for p in (plan, plain))
    assert np.mean(ours) < 0.5 * np.mean(theirs)


# One object for all parts.


def test_a_step_of_training_uses_all_parts():
    plan = dataclasses.replace(PLAN, num_examples=7, expected_batch_size=3, num_steps=3)
    data = examples(7)
    optimizer = plan.optimizer(optax.sgd(0.1), key=0)
    check_optimizer(optimizer, PARAMS)
    gradient = plan.clipped_grad(loss_fn)
    params, state = PARAMS, optimizer.init(PARAMS)
    for chunks in plan.batches(0):
        (chunk,) = chunks
        batch = [leaf[chunk.indices] for leaf in data]
        grads = gradient(params, *batch, mask=jnp.asarray(chunk.mask))
        update, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, update)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(params))


@every_plan
def test_its_description_is_json_and_names_what_matters(plan):
    described = json.loads(json.dumps(plan.describe()))
    assert described["mechanism"] == "DPMatrixFactorization"
    assert described["strategy"] == type(plan.strategy).__name__
    assert described["amplified"] == (plan is AMPLIFIED)
    assert described["noise_multiplier"] == 1.1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"num_steps": 0}, ValueError, "num_steps"),
        ({"strategy": "tree"}, TypeError, "strategy"),
        ({"strategy": banded(steps=20)}, ValueError, "num_steps=30"),
        ({"noise_multiplier": -1.0}, ValueError, "noise_multiplier"),
        ({"l2_norm_clip": 0.0}, ValueError, "clip"),
        ({"sampler": sampling.Poisson()}, AccountingError, "DPSGD"),
        (
            {"relation": NeighboringRelation.ADD_OR_REMOVE_ONE},
            AccountingError,
            "Deterministic",
        ),
        ({"expected_batch_size": 2000}, ValueError, "expected_batch_size"),
    ],
    ids=str,
)
def test_what_has_no_account_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(PLAN, **changes)
