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
from released import PARAMS, examples, flat, loss_fn, normal_rows, unit_noise

from dpjax import accounting, optimizers, sampling
from dpjax.mechanism import DPSGD
from dpjax.optimizers import privacy_spent, segments

DELTA = 1e-5
SHUFFLED = sampling.ShuffledEpochs()
PLAN = DPSGD(
    num_examples=1000,
    expected_batch_size=50,
    num_steps=100,
    l2_norm_clip=0.5,
    noise_multiplier=1.1,
)
WITHOUT_NOISE_MULTIPLIER = dataclasses.replace(PLAN, noise_multiplier=None)
SHUFFLED_PLAN = dataclasses.replace(PLAN, sampler=SHUFFLED)
REPLACE_PLAN = dataclasses.replace(
    SHUFFLED_PLAN, relation=NeighboringRelation.REPLACE_ONE
)
FIXED_PLAN = dataclasses.replace(PLAN, sampler=sampling.FixedSize())
PLANS = {
    "Poisson": PLAN,
    "Poisson, replace one": dataclasses.replace(
        PLAN, relation=NeighboringRelation.REPLACE_ONE
    ),
    "truncated": dataclasses.replace(PLAN, sampler=sampling.TruncatedPoisson(70)),
    "cyclic": dataclasses.replace(PLAN, sampler=sampling.CyclicPoisson(4)),
    "fixed size": FIXED_PLAN,
    "fixed size, add or remove": dataclasses.replace(
        FIXED_PLAN, relation=NeighboringRelation.ADD_OR_REMOVE_ONE
    ),
    "with replacement": dataclasses.replace(
        PLAN, sampler=sampling.FixedSizeWithReplacement()
    ),
    "deterministic": dataclasses.replace(PLAN, sampler=sampling.Deterministic()),
    "shuffled": SHUFFLED_PLAN,
    "replace one": REPLACE_PLAN,
}
SLOW = ("with replacement", "truncated", "fixed size, add or remove")
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


# The event.


def test_event_of_poisson_sampling_is_a_composition_of_sampled_gaussians():
    step = dp_accounting.PoissonSampledDpEvent(0.05, dp_accounting.GaussianDpEvent(1.1))
    assert PLAN.event() == dp_accounting.SelfComposedDpEvent(step, 100)


@pytest.mark.parametrize(
    ("num_steps", "participations"), [(1, 1), (20, 1), (21, 2), (100, 5)]
)
def test_event_of_shuffled_epochs_has_one_gaussian_an_epoch(num_steps, participations):
    plan = dataclasses.replace(SHUFFLED_PLAN, num_steps=num_steps)
    step = dp_accounting.GaussianDpEvent(1.1)
    assert plan.event() == dp_accounting.SelfComposedDpEvent(step, participations)


@every_plan
def test_the_noise_of_the_event_is_in_clip_norms_and_the_relation_says_the_rest(plan):
    event = plan.event()
    assert "1.1" in repr(event)
    relation = plan.neighboring_relation
    expected = accounting.event_epsilon(event, DELTA, relation=relation)
    assert plan.epsilon(DELTA) == expected


def test_replacing_an_example_moves_the_sum_twice_as_far():
    step = dp_accounting.GaussianDpEvent(1.1)
    assert REPLACE_PLAN.event() == dp_accounting.SelfComposedDpEvent(step, 5)
    # Noise std / sensitivity: 1.1 C over 2 C.
    halved = dataclasses.replace(SHUFFLED_PLAN, noise_multiplier=0.55)
    assert REPLACE_PLAN.epsilon(DELTA) == pytest.approx(float(halved.epsilon(DELTA)))


EVENTS = {
    sampling.TruncatedPoisson(70): dp_accounting.TruncatedSubsampledGaussianDpEvent(
        1001, 0.05, 70, 1.1
    ),
    sampling.FixedSize(): dp_accounting.SampledWithoutReplacementDpEvent(
        1000, 50, dp_accounting.GaussianDpEvent(1.1)
    ),
    sampling.FixedSizeWithReplacement(): dp_accounting.SampledWithReplacementDpEvent(
        1000, 50, dp_accounting.GaussianDpEvent(1.1)
    ),
    sampling.CyclicPoisson(4): dp_accounting.PoissonSampledDpEvent(
        0.2, dp_accounting.GaussianDpEvent(1.1)
    ),
    sampling.Deterministic(): dp_accounting.GaussianDpEvent(1.1),
}


@pytest.mark.parametrize("sampler", EVENTS)
def test_every_sampler_has_its_own_event(sampler):
    times = {sampling.CyclicPoisson(4): 25, sampling.Deterministic(): 5}
    expected = dp_accounting.SelfComposedDpEvent(
        EVENTS[sampler], times.get(sampler, 100)
    )
    assert dataclasses.replace(PLAN, sampler=sampler).event() == expected


def test_optimizer_counts_what_the_event_says():
    optimizer = PLAN.optimizer(optax.adam(0.1), 3)
    _, state = optimizer.update(normal_rows(PARAMS), optimizer.init(PARAMS), PARAMS)
    event = PLAN.event().event
    claimed = (event.event.noise_multiplier, event.sampling_probability, 1)
    assert segments.read(state[0].segments) == [claimed]


@every_plan
def test_every_part_comes_from_the_same_constants(plan):
    x, y = examples()
    grads = plan.clipped_grad(loss_fn)(PARAMS, x, y, mask=jnp.zeros(7, bool))
    assert grads.sensitivity == plan.sensitivity == 0.5
    optimizer = plan.optimizer(optax.sgd(1.0), 3)
    state = optimizer.init(PARAMS)
    updates, _ = optimizer.update(grads, state, PARAMS)
    # The batch is empty: the update is noise of std 1.1 x 0.5 over 50.
    expected = -1.1 * 0.5 / 50 * unit_noise(state[0], PARAMS)
    np.testing.assert_allclose(flat(updates), expected, rtol=1e-5)


def test_clip_norms_of_groups_reach_every_part():
    clip_norms = {"w": 0.3, "b": 0.4}
    plan = dataclasses.replace(PLAN, l2_norm_clip=clip_norms)
    grads = plan.clipped_grad(loss_fn)(PARAMS, *examples())
    assert grads.sensitivity == plan.sensitivity == pytest.approx(0.5)
    for name, clip_norm in clip_norms.items():
        assert np.linalg.norm(grads.sum[name]) <= 7 * clip_norm
    assert plan.describe()["l2_norm_clip"] == {"['w']": 0.3, "['b']": 0.4}
    optimizer = plan.optimizer(optax.sgd(1.0), 3)
    optimizer.update(grads, optimizer.init(PARAMS), PARAMS)


def test_gradients_clipped_otherwise_are_refused():
    wider = dataclasses.replace(PLAN, l2_norm_clip=0.6)
    grads = wider.clipped_grad(loss_fn)(PARAMS, *examples())
    optimizer = PLAN.optimizer(optax.sgd(1.0), 3)
    with pytest.raises(ValueError, match=r"got sensitivity=0\.6"):
        optimizer.update(grads, optimizer.init(PARAMS), PARAMS)


def test_a_clip_norm_that_adapts_costs_what_one_that_stays_does():
    adapting = optimizers.AdaptiveClip(initial_l2_norm_clip=0.5)
    plan, fixed = dataclasses.replace(PLAN, l2_norm_clip=adapting), PLAN
    assert plan.event() == fixed.event()
    assert plan.sensitivity == 0.5
    assert plan.is_adaptive
    assert not fixed.is_adaptive
    assert json.loads(json.dumps(plan.describe()))["l2_norm_clip"] == repr(adapting)
    with pytest.raises(ValueError, match="Expected a clip that stays"):
        _ = plan.noise_stddev


def test_a_clip_norm_cannot_adapt_where_an_example_may_come_twice():
    adapting = optimizers.AdaptiveClip(initial_l2_norm_clip=0.5)
    twice = sampling.FixedSizeWithReplacement()
    with pytest.raises(ValueError, match="may come twice in a batch"):
        dataclasses.replace(PLAN, l2_norm_clip=adapting, sampler=twice)


def test_optimizer_that_is_private_already_is_refused():
    twice = PLAN.optimizer(optimizers.dpsgd(0.1, 0.5, 1.1, 3), 3)
    with pytest.raises(ValueError, match="got 2 in a state"):
        optimizers.check_optimizer(twice, PARAMS)


# Epsilon.


@pytest.mark.parametrize("accountant", ["exact", "pld", "rdp"])
@pytest.mark.parametrize("step", [1, 30, 100])
def test_epsilon_is_that_of_the_steps_taken(accountant, step):
    compute = {
        "exact": accounting.exact_epsilon,
        "pld": accounting.pld_epsilon,
        "rdp": accounting.rdp_epsilon,
    }
    expected = compute[accountant](
        noise_multiplier=1.1, sampling_prob=0.05, num_steps=step, delta=DELTA
    )
    epsilon = PLAN.epsilon(DELTA, step=step, accountant=accountant)
    assert epsilon == pytest.approx(expected, rel=1e-9)
    assert epsilon.method == accountant


def test_epsilon_is_of_all_steps_and_exact_where_nothing_is_said():
    assert PLAN.epsilon(DELTA) == PLAN.epsilon(DELTA, step=100, accountant="exact")


def test_epsilon_of_shuffled_epochs_is_that_of_their_gaussians():
    # Five releases with 1.1 are one with 1.1 / sqrt(5).
    for plan, multiplier in [(SHUFFLED_PLAN, 1.1), (REPLACE_PLAN, 0.55)]:
        one = dp_accounting.GaussianDpEvent(multiplier / math.sqrt(5))
        expected = accounting.event_epsilon(one, DELTA)
        assert plan.epsilon(DELTA) == pytest.approx(float(expected), rel=1e-9)


@every_plan
@pytest.mark.parametrize(
    "accountant", ["exact", pytest.param("rdp", marks=pytest.mark.slow)]
)
def test_the_curve_holds_the_epsilon_after_each_number_of_steps(plan, accountant):
    steps = [0, 1, 2, 19, 20, 21, 100]
    curve = plan.epsilon_curve(DELTA, steps, accountant=accountant)
    singles = [plan.epsilon(DELTA, step=n, accountant=accountant) for n in steps]
    np.testing.assert_allclose(curve, singles, rtol=1e-4)
    assert np.all(plan.epsilon_curve(DELTA, [0, 0]) == 0)


@every_plan
@pytest.mark.parametrize("accountant", ["exact", "pld", "rdp"])
def test_epsilon_is_zero_at_zero_steps(plan, accountant):
    assert plan.epsilon(DELTA, step=0, accountant=accountant) == 0.0
    nothing = dataclasses.replace(plan, num_steps=0)
    assert nothing.epsilon(DELTA, accountant=accountant) == 0.0


@every_plan
@pytest.mark.parametrize("accountant", ["exact", "pld", "rdp"])
def test_epsilon_is_infinite_without_noise(plan, accountant):
    bare = dataclasses.replace(plan, noise_multiplier=0.0)
    assert bare.epsilon(DELTA, accountant=accountant) == math.inf
    assert bare.epsilon(DELTA, step=0, accountant=accountant) == 0.0


@pytest.mark.parametrize("step", [-1, 101])
def test_epsilon_of_steps_outside_of_the_plan_is_refused(step):
    with pytest.raises(ValueError, match=f"got step={step}"):
        PLAN.epsilon(DELTA, step=step)


@pytest.mark.parametrize("delta", [1.0, -0.1, math.nan])
def test_delta_out_of_range_is_refused(delta):
    with pytest.raises(ValueError, match="got delta="):
        PLAN.epsilon(delta)


def test_epsilon_equals_what_the_state_says_after_the_steps():
    optimizer = PLAN.optimizer(optax.sgd(0.1), 3)
    grads = normal_rows(PARAMS)

    @jax.jit
    def run(state):
        def one(state, _):
            return optimizer.update(grads, state, PARAMS)[1], None

        return jax.lax.scan(one, state, length=30)[0]

    spent = privacy_spent(run(optimizer.init(PARAMS)), DELTA)
    assert spent.steps == 30
    assert spent.epsilon == pytest.approx(float(PLAN.epsilon(DELTA, step=30)), rel=1e-9)


def test_state_never_claims_less_than_a_plan_of_shuffled_epochs():
    optimizer = SHUFFLED_PLAN.optimizer(optax.sgd(0.1), 3)
    _, state = optimizer.update(normal_rows(PARAMS), optimizer.init(PARAMS), PARAMS)
    assert segments.read(state[0].segments) == [(1.1, 1.0, 1)]
    assert privacy_spent(state, DELTA).epsilon >= SHUFFLED_PLAN.epsilon(DELTA, step=1)


# The ledger.


@every_plan
@pytest.mark.parametrize("step", [None, 0, 30])
def test_the_ledger_holds_what_the_steps_cost_under_the_plans_relation(plan, step):
    ledger = plan.ledger(step=step)
    assert ledger.relation == plan.neighboring_relation
    assert [entry.label for entry in ledger.entries] == ["training"]
    expected = plan.epsilon(DELTA, step=step)
    assert ledger.epsilon(DELTA) == pytest.approx(float(expected), rel=1e-9)


@every_plan
def test_a_ledger_with_the_plans_own_epsilon_as_its_budget_has_no_room(plan):
    spent = plan.epsilon(DELTA)
    ledger = plan.ledger(budget=accounting.Budget(spent, DELTA), label="tuning")
    assert ledger.entries[0].label == "tuning"
    release = dp_accounting.GaussianDpEvent(1.0)
    with pytest.raises(accounting.BudgetExceeded):
        ledger.spend(release, "statistics")
    with pytest.raises(accounting.BudgetExceeded):
        plan.ledger(budget=accounting.Budget(0.9 * spent, DELTA))


# Calibration.


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(plan, id=name, marks=[pytest.mark.slow] * (name in SLOW))
        for name, plan in PLANS.items()
    ],
)
@pytest.mark.parametrize("accountant", ["exact", "pld", "rdp"])
@pytest.mark.parametrize("target", [0.5, 8.0])
def test_calibration_never_passes_the_target_and_wastes_little(
    plan, accountant, target
):
    unsolved = dataclasses.replace(plan, noise_multiplier=None)
    solved = unsolved.calibrate(target, DELTA, accountant=accountant)
    assert solved.epsilon(DELTA, accountant=accountant) <= target
    less = dataclasses.replace(solved, noise_multiplier=0.99 * solved.noise_multiplier)
    assert less.epsilon(DELTA, accountant=accountant) > target
    assert dataclasses.replace(solved, noise_multiplier=None) == unsolved


def test_target_that_every_noise_meets_is_refused():
    nothing = dataclasses.replace(PLAN, num_steps=0)
    with pytest.raises(accounting.AccountingError, match="Expected"):
        nothing.calibrate(1.0, DELTA)


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan])
def test_target_out_of_range_is_refused(target):
    with pytest.raises(ValueError, match="target_epsilon"):
        PLAN.calibrate(target, DELTA)


@pytest.mark.parametrize(
    "use",
    [
        lambda plan: plan.event(),
        lambda plan: plan.epsilon(DELTA),
        lambda plan: plan.optimizer(optax.sgd(0.1)),
        lambda plan: plan.describe(),
    ],
    ids=["event", "epsilon", "optimizer", "describe"],
)
def test_plan_without_noise_multiplier_asks_for_calibration(use):
    with pytest.raises(ValueError, match=r"solve for it with calibrate"):
        use(WITHOUT_NOISE_MULTIPLIER)


# Sampler and relation.


def test_a_plan_asks_for_a_sound_account_of_its_sampler_and_relation():
    with pytest.raises(accounting.AccountingError, match="that have a sound account"):
        dataclasses.replace(
            SHUFFLED_PLAN, relation=NeighboringRelation.ADD_OR_REMOVE_ONE
        )


@every_plan
def test_the_number_of_poisson_sampling_is_offered_and_is_no_guarantee(plan):
    quoted = plan.epsilon_if_poisson(DELTA)
    poisson = dataclasses.replace(
        PLAN, sampler=sampling.Poisson(), relation=plan.neighboring_relation
    )
    assert quoted.if_it_were == poisson.epsilon(DELTA)
    if not plan.sampler or isinstance(plan.sampler, sampling.Poisson):
        assert quoted.if_it_were == plan.epsilon(DELTA)
    else:
        assert quoted.if_it_were < plan.epsilon(DELTA)
    half = plan.epsilon_if_poisson(DELTA, step=50, accountant="rdp")
    assert half.if_it_were == poisson.epsilon(DELTA, step=50, accountant="rdp")


# What the state of the optimizer says.


@pytest.mark.parametrize(
    ("sampler", "row"),
    [
        (sampling.CyclicPoisson(4), (1.1, 0.2, 1)),
        (sampling.TruncatedPoisson(70), (1.1, 1.0, 1)),
        (sampling.FixedSize(), (1.1, 1.0, 1)),
        (sampling.FixedSizeWithReplacement(), (1.1 / 50, 1.0, 1)),
        (sampling.Deterministic(), (1.1, 1.0, 1)),
    ],
)
def test_state_counts_what_holds_for_one_example_that_is_zeroed_out(sampler, row):
    optimizer = dataclasses.replace(PLAN, sampler=sampler).optimizer(optax.sgd(0.1), 3)
    _, state = optimizer.update(normal_rows(PARAMS), optimizer.init(PARAMS), PARAMS)
    assert segments.read(state[0].segments) == [row]


# What it says of itself.


@every_plan
def test_description_is_json_and_agrees_with_the_plan(plan):
    found = json.loads(json.dumps(plan.describe(), allow_nan=False))
    assert found["event"] == repr(plan.event())
    assert found["sampling_prob"] == plan.sampling_prob
    assert found["noise_std"] == plan.noise_multiplier * plan.sensitivity
    assert found["divisor"] == plan.expected_batch_size
    assert set(found) == {
        "mechanism",
        "num_examples",
        "expected_batch_size",
        "num_steps",
        "l2_norm_clip",
        "noise_multiplier",
        "sampling_prob",
        "sampler",
        "sampler_statement",
        "neighboring_relation",
        "sensitivity",
        "noise_std",
        "divisor",
        "chunk_size",
        "event",
    }


def test_description_of_numpy_constants_is_json():
    plan = DPSGD(
        num_examples=np.int64(1000),
        expected_batch_size=np.int32(50),
        num_steps=np.int16(100),
        l2_norm_clip=np.float32(0.5),
        noise_multiplier=np.float64(1.1),
    )
    assert json.dumps(plan.describe()) == json.dumps(PLAN.describe())


def test_plan_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAN.num_steps = 3


BAD = {
    "clip norm zero": ({"l2_norm_clip": 0.0}, ValueError, "l2_norm_clip=0.0"),
    "clip norm negative": ({"l2_norm_clip": -1}, ValueError, "l2_norm_clip=-1"),
    "clip norm NaN": ({"l2_norm_clip": math.nan}, ValueError, "finite"),
    "clip norm infinite": ({"l2_norm_clip": math.inf}, ValueError, "finite"),
    "clip norm missing": ({"l2_norm_clip": None}, TypeError, "real number"),
    "no clip norms": ({"l2_norm_clip": {}}, ValueError, "at least one clip norm"),
    "clip norm not static": (
        {"l2_norm_clip": jnp.float32(1)},
        ValueError,
        "a static clip norm",
    ),
    "noise negative": ({"noise_multiplier": -0.1}, ValueError, "noise_multiplier=-0.1"),
    "noise NaN": ({"noise_multiplier": math.nan}, ValueError, "finite"),
    "noise infinite": ({"noise_multiplier": math.inf}, ValueError, "finite"),
    "noise by name": ({"noise_multiplier": "1"}, TypeError, "real number"),
    "relation by name": ({"relation": "add-or-remove"}, ValueError, "sound account"),
}


@pytest.mark.parametrize(("changes", "error", "message"), BAD.values(), ids=BAD)
def test_settings_out_of_range_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(PLAN, **changes)


def test_options_of_clipped_grad_are_passed_on_and_unknown_ones_refused():
    x, y = examples()
    grads = PLAN.clipped_grad(
        lambda params, x, y: (loss_fn(params, x, y), jnp.sum(y)), has_aux=True
    )(PARAMS, x, y)
    np.testing.assert_allclose(grads.per_example.aux, y.sum(axis=1), rtol=1e-5)
    with pytest.raises(TypeError, match="microbatch"):
        PLAN.clipped_grad(loss_fn, microbatch=3)


# From end to end.

REGRESSION = DPSGD(
    num_examples=2000, expected_batch_size=100, num_steps=40, l2_norm_clip=1.0
).calibrate(3.0, DELTA)


def padded_chunks(plan, key):
    """Return all chunks of a plan as arrays (steps, chunks, rows)."""
    steps = [list(chunks) for chunks in plan.batches(key)]
    nobody = sampling.IndexChunk(
        np.zeros(plan.chunk_size, np.int32), np.zeros(plan.chunk_size, bool)
    )
    longest = max(map(len, steps))
    filled = [chunks + [nobody] * (longest - len(chunks)) for chunks in steps]
    return stacked(list(map(stacked, filled)))


def stacked(chunks):
    return jax.tree.map(lambda *rows: np.stack(rows), *chunks)


FIRST_LATER = 0, slice(1, None)


def trained(plan, data, key):
    """Run a whole plan in one compiled scan over steps, and one over chunks."""
    clipped_grad = plan.clipped_grad(loss_fn)
    optimizer = plan.optimizer(optax.sgd(0.5, momentum=0.5), key)

    def gradient(params, chunk):
        rows = jax.tree.map(lambda leaf: leaf[chunk.indices], data)
        return clipped_grad(params, *rows, mask=chunk.mask).without_per_example()

    def step(carry, chunks):
        params, state = carry
        first, later = (jax.tree.map(lambda c, i=i: c[i], chunks) for i in FIRST_LATER)
        total, _ = jax.lax.scan(
            lambda total, chunk: (total + gradient(params, chunk), None),
            gradient(params, first),
            later,
        )
        updates, state = optimizer.update(total, state, params)
        return (optax.apply_updates(params, updates), state), None

    start = jax.tree.map(jnp.zeros_like, PARAMS)
    run = jax.jit(lambda carry, chunks: jax.lax.scan(step, carry, chunks)[0])
    return run((start, optimizer.init(start)), padded_chunks(plan, key))


def test_private_regression_learns_within_its_budget():
    x, _ = examples(REGRESSION.num_examples)
    data = (x, x @ PARAMS["w"] + 0.5)
    params, state = trained(REGRESSION, data, 5)
    assert REGRESSION.epsilon(DELTA) <= 3.0
    spent = privacy_spent(state, DELTA)
    assert spent.steps == REGRESSION.num_steps
    assert spent.epsilon == pytest.approx(float(REGRESSION.epsilon(DELTA)), rel=1e-9)
    # A mean squared error of 0.05 an output, where predicting zero has 1.9.
    error = np.mean((x @ params["w"] + params["b"] - data[1]) ** 2)
    assert error < 0.05 < 1.5 < np.mean(data[1] ** 2)
    # Smaller chunks change memory and time only.
    chunked = dataclasses.replace(REGRESSION, static_batch_size=48)
    again, _ = trained(chunked, data, 5)
    chex.assert_trees_all_close(again, params, rtol=1e-3, atol=1e-4)
