import dataclasses
import json
import math

import chex
import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dp_accounting import NeighboringRelation
from released import PARAMS, assert_normal, examples, flat, loss_fn

from dpjax import accounting, sampling, training
from dpjax.accounting import AccountingError
from dpjax.clipping import rules
from dpjax.mechanism import DPSGD
from dpjax.mechanism.discrete_sgd import DPDiscreteSGD
from dpjax.optimizers import AdaptiveClip, check_optimizer, privacy_spent
from dpjax.optimizers.grid import rounded_sensitivity

DELTA = 1e-5
PLAN = DPDiscreteSGD(
    num_examples=60,
    expected_batch_size=20,
    num_steps=9,
    l2_norm_clip=0.5,
    noise_multiplier=2.1,
)
PLANS = {
    "deterministic": PLAN,
    "shuffled": dataclasses.replace(PLAN, sampler=sampling.ShuffledEpochs()),
    "coarse": dataclasses.replace(PLAN, granularity=2.0**-4),
    "examples": dataclasses.replace(PLAN, rounding="examples"),
    "chunks": dataclasses.replace(PLAN, rounding="examples", static_batch_size=8),
}
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
RULES = {
    "groups": {"w": 0.3, "b": 0.4},
    "per layer": rules.PerLayer(0.5),
    "automatic": rules.Automatic(0.5),
    "per-sample adaptive": rules.PerSampleAdaptive(0.5),
}


def continuous(plan, noise_multiplier=None):
    """Return the same plan with Gaussian noise."""
    return DPSGD(
        num_examples=60,
        expected_batch_size=20,
        num_steps=9,
        l2_norm_clip=0.5,
        noise_multiplier=noise_multiplier,
        sampler=plan.sampler or sampling.Deterministic(),
    )


# The event.


@every_plan
def test_one_participation_an_epoch_is_one_zcdp_event(plan):
    one = dp_accounting.ZCDpEvent(0.5 / 2.1**2)
    assert plan.event() == dp_accounting.SelfComposedDpEvent(one, 3)
    gaussian = continuous(plan, noise_multiplier=2.1)
    assert plan.event().count == gaussian.event().count


@pytest.mark.parametrize("accountant", ["exact", "pld", "rdp"])
def test_every_accountant_that_is_reported_gives_the_bound_of_zcdp(accountant):
    found = PLAN.epsilon(DELTA, accountant=accountant)
    event = dp_accounting.ZCDpEvent(3 * 0.5 / 2.1**2)
    expected = accounting.event_epsilon(event, DELTA, accountant="rdp")
    assert found == pytest.approx(expected, rel=1e-9)
    assert found.method == "rdp"
    gaussian = dp_accounting.GaussianDpEvent(2.1 / math.sqrt(3))
    exact = accounting.event_epsilon(gaussian, DELTA)
    assert exact < found < 1.2 * exact


def test_the_curve_is_epsilon_at_each_step_and_none_cost_nothing():
    steps = [0, 1, 3, 4, 9]
    curve = PLAN.epsilon_curve(DELTA, steps)
    np.testing.assert_array_equal(curve, [PLAN.epsilon(DELTA, step=s) for s in steps])
    assert curve[0] == 0 < curve[1] == curve[2] < curve[3] < curve[4]


def test_without_noise_it_is_not_private():
    silent = dataclasses.replace(PLAN, noise_multiplier=0.0)
    assert silent.epsilon(DELTA) == math.inf


def test_the_ledger_holds_the_event():
    ledger = PLAN.ledger()
    assert float(ledger.epsilon(DELTA)) == pytest.approx(float(PLAN.epsilon(DELTA)))
    with pytest.raises(accounting.BudgetExceeded):
        PLAN.ledger(budget=accounting.Budget(epsilon=0.1, delta=DELTA))


@pytest.mark.parametrize("accountant", ["exact", "pld"])
@pytest.mark.parametrize("target", [0.5, 4.0])
def test_calibration_never_passes_the_target_and_wastes_little(target, accountant):
    plan = PLAN.calibrate(target, DELTA, accountant=accountant)
    assert plan.epsilon(DELTA) <= target
    less = dataclasses.replace(plan, noise_multiplier=plan.noise_multiplier * 0.999)
    assert less.epsilon(DELTA) > target
    # Within a tenth of what continuous noise needs.
    gaussian = continuous(PLAN).calibrate(target, DELTA)
    assert 1 < plan.noise_multiplier / gaussian.noise_multiplier < 1.1


# What is claimed is what is released.


@every_plan
def test_the_released_noise_has_the_multiplier_of_the_event(plan):
    size = 20_000
    optimizer = plan.optimizer(optax.sgd(1.0), key=3)
    params = jnp.zeros(size)
    state = optimizer.init(params)
    update, state = optimizer.update(jnp.zeros((2, size)), state, params)
    multiplier = math.sqrt(0.5 / plan.event().event.rho)
    step = plan.granularity or 2.0**-19
    sensitivity = rounded_sensitivity(0.5, step, size) * step
    noise = flat(update) * plan.expected_batch_size / sensitivity
    assert_normal(noise, multiplier)
    spent = privacy_spent(state, DELTA).epsilon
    assert spent == pytest.approx(plan.epsilon(DELTA, step=1), rel=1e-6)


@pytest.mark.parametrize("name", ["deterministic", "coarse", "examples"])
def test_the_noise_of_the_average_is_what_it_says(name):
    plan, size = PLANS[name], 20_000
    grads = plan.clipped_grad(lambda w, x: jnp.vdot(w, x))(
        jnp.zeros(size), jnp.zeros((1, size)), mask=jnp.ones(1, bool)
    )
    optimizer = plan.optimizer(optax.sgd(1.0), key=3)
    params = jnp.zeros(size)
    update, _ = optimizer.update(grads, optimizer.init(params), params)
    found = flat(update).std() / plan.noise_stddev(size)
    assert abs(found - 1) < 5 / math.sqrt(2 * size)


def test_rounding_the_examples_adds_half_of_what_rounding_the_sum_does():
    by_sum, by_example = (
        dataclasses.replace(PLAN, granularity=2.0**-14, rounding=rounding)
        for rounding in ("sum", "examples")
    )
    plain = 2.1 * 0.5 / 20
    added = [plan.noise_stddev(10_000) / plain - 1 for plan in (by_sum, by_example)]
    assert added[0] == pytest.approx(2 * added[1], rel=1e-2)
    assert added[0] == pytest.approx(100 * 2.0**-14 / 0.5, rel=1e-2)


# One object for all parts.


def fit(plan, **options):
    data = examples(60)
    options = {
        "key": 7,
        "delta": DELTA,
        "logging": training.Logging(every=3, progress=False),
    } | options
    return training.fit(plan, loss_fn, PARAMS, data, optax.adam(0.1), **options)


def by_hand(plan, key=7):
    x, y = examples(60)
    private = plan.optimizer(optax.adam(0.1), key)
    check_optimizer(private, PARAMS)
    gradient = jax.jit(plan.clipped_grad(loss_fn))
    params, state = PARAMS, private.init(PARAMS)
    for chunks in plan.batches(key):
        total = None
        for indices, mask in chunks:
            grads = gradient(params, x[indices], y[indices], mask=mask)
            grads = grads.without_per_example()
            total = grads if total is None else total + grads
        update, state = private.update(total, state, params)
        params = optax.apply_updates(params, update)
    return params


@pytest.mark.parametrize(
    "name", ["deterministic", pytest.param("chunks", marks=pytest.mark.slow)]
)
def test_fit_is_the_loop_written_by_hand(name):
    result = fit(PLANS[name])
    chex.assert_trees_all_close(result.params, by_hand(PLANS[name]), rtol=1e-4)
    assert result.epsilon["exact"] == PLAN.epsilon(DELTA)
    assert set(result.epsilon) == {"exact", "pld", "rdp"}


@pytest.mark.parametrize(
    "name", ["deterministic", pytest.param("examples", marks=pytest.mark.slow)]
)
def test_a_resumed_run_gives_the_numbers_of_one_that_was_never_stopped(name, tmp_path):
    plan = PLANS[name]
    whole = fit(plan, run_dir=tmp_path / "whole")

    class Stopped(Exception):
        pass

    def stop(params):
        calls.append(params)
        if len(calls) == 2:
            raise Stopped
        return {}

    calls = []
    every = training.Checkpointing(every=1)
    log = training.Logging(every=3, progress=False)
    parted = {"run_dir": tmp_path / "parted", "checkpointing": every, "logging": log}
    with pytest.raises(Stopped):
        fit(plan, evaluate=stop, **parted)
    resumed = fit(plan, evaluate=lambda params: {}, resume=True, **parted)
    chex.assert_trees_all_equal(resumed.params, whole.params)
    chex.assert_trees_all_equal(resumed.opt_state, whole.opt_state)


@pytest.mark.slow
def test_examples_that_are_rounded_add_up_to_the_same_in_any_chunks():
    # Programs of other shapes compute gradients an ulp apart, which a grid that is not
    # the finest hides, but for rare ties.
    plans = [
        dataclasses.replace(PLANS[name], granularity=2.0**-8)
        for name in ("examples", "chunks")
    ]
    chex.assert_trees_all_equal(*[fit(plan).params for plan in plans])


def test_both_engines_give_the_same_updates():
    # Rounding hides what little the engines differ by, but for rare ties.
    plan = PLANS["coarse"]
    optimizer = plan.optimizer(optax.sgd(1.0), key=3)
    state = optimizer.init(PARAMS)
    updates = [
        optimizer.update(
            plan.clipped_grad(loss_fn, engine=engine)(PARAMS, *examples(20)),
            state,
            PARAMS,
        )[0]
        for engine in ("bookkeeping", "vmap")
    ]
    chex.assert_trees_all_equal(*updates)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["bookkeeping", "vmap"])
def test_both_engines_train(engine):
    short = dataclasses.replace(PLANS["coarse"], num_steps=2)
    one, auto = fit(short, engine=engine), fit(short)
    chex.assert_trees_all_close(one.params, auto.params, atol=1e-3)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    "rounding", ["sum", pytest.param("examples", marks=pytest.mark.slow)]
)
def test_every_static_rule_is_clipped_rounded_and_released(name, rounding):
    plan = dataclasses.replace(PLAN, l2_norm_clip=RULES[name], rounding=rounding)
    assert plan.sensitivity == pytest.approx(0.5)
    grads = plan.clipped_grad(loss_fn)(PARAMS, *examples(20))
    optimizer = plan.optimizer(optax.sgd(1.0), key=3)
    update, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    noise = flat(update) * 20 + flat(grads.sum)
    assert np.all(np.isfinite(noise))
    assert 0.3 < noise.std() / (20 * plan.noise_stddev(18)) < 2


@every_plan
def test_its_description_is_json_and_names_what_matters(plan):
    described = json.loads(json.dumps(plan.describe()))
    assert described["mechanism"] == "DPDiscreteSGD"
    assert described["noise"] == "discrete Gaussian"
    assert described["granularity"] == plan.granularity
    assert described["rounding"] == plan.rounding
    assert described["noise_multiplier"] == 2.1
    assert "ZCDpEvent" in described["event"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sampler": sampling.Poisson()}, AccountingError, "Deterministic"),
        ({"sampler": sampling.FixedSize()}, AccountingError, "Deterministic"),
        ({"sampler": sampling.CyclicPoisson(2)}, AccountingError, "Deterministic"),
        (
            {"relation": NeighboringRelation.REPLACE_ONE},
            AccountingError,
            "REPLACE_SPECIAL",
        ),
        (
            {"relation": NeighboringRelation.ADD_OR_REMOVE_ONE},
            AccountingError,
            "Deterministic",
        ),
        (
            {"l2_norm_clip": AdaptiveClip(initial_l2_norm_clip=1.0)},
            TypeError,
            "l2_norm_clip",
        ),
        ({"granularity": 0.3}, ValueError, "power of two"),
        ({"granularity": 2.0**-24, "rounding": "examples"}, ValueError, "32 bits"),
        ({"rounding": "both"}, ValueError, "rounding"),
        ({"noise_multiplier": -1.0}, ValueError, "noise_multiplier"),
        ({"expected_batch_size": 2000}, ValueError, "expected_batch_size"),
    ],
    ids=str,
)
def test_what_has_no_sound_account_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(PLAN, **changes)


def test_an_engine_that_proves_no_norms_is_refused_where_examples_are_rounded():
    with pytest.raises(ValueError, match="engine"):
        PLANS["examples"].clipped_grad(loss_fn, engine="bookkeeping")
    with pytest.raises(ValueError, match="calibrate"):
        dataclasses.replace(PLAN, noise_multiplier=None).epsilon(DELTA)
