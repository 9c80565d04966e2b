"""DP-SGD in which each example has a budget of its own."""

import dataclasses
import functools
import json
import re

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpjax import accounting, clipping, mechanism, optimizers, sampling, training

DELTA = 1e-5
COUNT, SIZE = 7, 5
PLAN = mechanism.DPIndividualSGD(
    num_examples=COUNT,
    expected_batch_size=4,
    num_steps=12,
    l2_norm_clip=0.5,
    full_steps=3,
    noise_multiplier=1.6,
)
REPLACE = dp_accounting.NeighboringRelation.REPLACE_ONE


def with_changes(**changes):
    return dataclasses.replace(PLAN, **changes)


def loss(params, x):
    """Return a loss whose gradient is x, whatever the parameters."""
    return jnp.vdot(params, x)


@functools.cache
def program(plan, dtype, size, **options):
    """Return the first state of a run without noise, and its compiled step."""
    plan = dataclasses.replace(plan, noise_multiplier=0.0)
    params = jnp.zeros(size, dtype)
    gradient = plan.step_gradient(loss, **options)
    optimizer = plan.optimizer(optax.sgd(1.0), 0)

    @jax.jit
    def step(state, rows, mask):
        grads, _ = gradient(state, params, rows, mask=mask)
        return grads.grads.sum, optimizer.update(grads, state, params)[1]

    return optimizer.init(params), step


def sums(data, plan=PLAN, scales=None, **options):
    """Return the clipped sums of all steps, without noise, and the state at the end.

    `data` are gradients (examples, size), multiplied with `scales` at each step.
    """
    state, step = program(plan, data.dtype.name, data.shape[1], **options)
    found = []
    for number, [chunk] in enumerate(plan.batches(0)):
        scale = 1.0 if scales is None else scales[number]
        rows = data[chunk.indices] * np.asarray(scale, data.dtype)
        total, state = step(state, rows, chunk.mask)
        found.append(np.asarray(total, np.float64))
    return np.stack(found), state


def moved(one, other, **options):
    """Return how far the sums of two data sets are apart, all steps together."""
    return np.linalg.norm(sums(one, **options)[0] - sums(other, **options)[0])


LIMIT = 0.5 * np.sqrt(3)
LOUD = {"large": 1e4, "just": 0.51, "small": 0.3, "tiny": 6e-8, "huge": 1e30}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", ["vmap", "bookkeeping"])
@pytest.mark.parametrize("size", LOUD)
def test_an_example_moves_all_sums_together_by_no_more_than_its_budget(
    size, engine, dtype
):
    data = np.random.default_rng(0).normal(size=(COUNT, SIZE)).astype(dtype)
    data /= np.linalg.norm(data, axis=1, keepdims=True)
    data[[0, 2, 3, 4, 5, 6]] *= 1e-6 if dtype == "float32" else 1
    with jax.enable_x64(dtype == "float64"):
        silent, loud = data.copy(), data.copy()
        silent[1], loud[1] = 0, LOUD[size] * data[1]
        distance = moved(loud, silent, engine=engine)
        assert distance <= LIMIT
        # Example 1 is in 6 of the 12 steps; as far as its budget goes, it is heard.
        wanted = min(LOUD[size] * np.sqrt(6), 0.5 * np.sqrt(6), LIMIT)
        slack = 1e-4 if wanted > 1e-3 else 0.1
        if size != "huge" or dtype == "float64" or engine == "vmap":
            assert distance >= wanted * (1 - slack)
        replaced = loud.copy()
        replaced[1] *= -1
        assert distance <= moved(loud, replaced, engine=engine) <= 2 * LIMIT


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("engine", ["vmap", "bookkeeping"])
def test_what_is_not_finite_adds_nothing_and_leaves_the_others_as_they_are(bad, engine):
    data = np.random.default_rng(1).normal(size=(COUNT, SIZE)).astype(np.float32)
    broken, silent = data.copy(), data.copy()
    broken[2, 3], silent[2] = bad, 0
    found, expected = (sums(d, engine=engine)[0] for d in (broken, silent))
    assert np.isfinite(found).all()
    assert np.linalg.norm(found - expected) <= LIMIT
    if not np.isfinite(bad):
        np.testing.assert_array_equal(found, expected)


def test_norms_chosen_step_by_step_cannot_pass_the_budget():
    generator = np.random.default_rng(2)
    data = np.zeros((COUNT, SIZE))
    data[0, 0] = 1
    plan = with_changes(num_steps=40, full_steps=2)
    for _ in range(5):
        scales = 10.0 ** generator.uniform(-3, 1, size=40)
        with jax.enable_x64(True):
            found, state = sums(data, plan, scales)
        added = np.linalg.norm(found, axis=1) / 0.5
        used = (
            np.asarray(state[0].used, np.float64)[0, 0] / optimizers.individual.BUDGET
        )
        assert np.sum(added**2) / 2 <= used <= 1
        assert used == pytest.approx(min(1, np.sum(added**2) / 2), abs=1e-4)


@pytest.mark.parametrize("engine", ["vmap", "bookkeeping"])
@pytest.mark.parametrize("clip", [2.0**-100, 1e-20, 3.0, 1e20, 2.0**100])
def test_budgets_hold_at_clip_norms_of_any_size(clip, engine):
    data = np.zeros((1, 2), np.float32)
    data[0, 0] = clip
    plan = mechanism.DPIndividualSGD(
        num_examples=1,
        expected_batch_size=1,
        num_steps=30,
        l2_norm_clip=clip,
        full_steps=2,
    )
    for factor in (0.9, 0.3, 1e-3, 1e20):
        found, _ = sums(data, plan, [min(factor, 3e38 / clip)] * 30, engine=engine)
        total = np.sum((found[:, 0] / clip) ** 2)
        assert total <= 2
        # Norms whose squares leave float32 may be taken for more than they are.
        if engine == "vmap" or 1e-16 < factor * clip < 1e18:
            assert total >= min(30 * factor**2, 2) * (1 - 1e-3)


def test_a_cost_that_is_no_number_takes_all_that_is_left():
    optimizer = PLAN.optimizer(optax.sgd(1.0), 0)
    params = jnp.zeros(SIZE)
    state = optimizer.init(params)
    costs = jnp.array([jnp.nan, jnp.inf, -1.0, 0.0])
    nobody = PLAN.clipped_grad(loss)(
        params, jnp.zeros((4, SIZE)), mask=jnp.zeros(4) > 0
    )
    grads = optimizers.IndividualGrads(nobody, costs, jnp.ones(4, bool), 3)
    _, state = optimizer.update(grads, state, params)
    used = np.asarray(state[0].used)[0].tolist()
    assert used == [optimizers.individual.BUDGET] * 3 + [1]


def test_without_the_charge_the_test_above_would_fail(monkeypatch):
    monkeypatch.setattr(optimizers.individual, "_charged", lambda used, *_: used)
    program.cache_clear()
    data = np.ones((COUNT, SIZE), np.float32)
    silent = data.copy()
    silent[1] = 0
    assert moved(data, silent) > LIMIT * 1.4
    program.cache_clear()


def test_long_enough_short_gradients_are_those_of_plain_clipping():
    data = np.random.default_rng(3).normal(size=(COUNT, SIZE)).astype(np.float32) / 50
    found, state = sums(data)
    clipped = clipping.clipped_grad(loss, 0.5)
    for step, [chunk] in enumerate(PLAN.batches(0)):
        grads = clipped(jnp.zeros(SIZE), data[chunk.indices], mask=chunk.mask)
        np.testing.assert_allclose(found[step], grads.sum, rtol=1e-5, atol=1e-7)
    used = np.asarray(state[0].used)
    assert used.shape == (2, 4)
    assert used[1, 3] == 0  # Padding: there is no such example.
    assert np.all(used.ravel()[:COUNT] > 0)


@pytest.mark.parametrize("microbatch_size", [1, 3])
def test_microbatches_change_nothing(microbatch_size):
    data = np.random.default_rng(4).normal(size=(COUNT, SIZE)).astype(np.float32)
    expected, _ = sums(data)
    found, _ = sums(data, microbatch_size=microbatch_size)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_event_is_that_of_as_many_gaussian_releases_as_can_be_paid_for():
    pld = dp_accounting.pld.PLDAccountant(
        dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    )
    pld.compose(dp_accounting.GaussianDpEvent(1.6), 3)
    assert PLAN.epsilon(DELTA) == pytest.approx(pld.get_epsilon(DELTA), rel=1e-3)
    one = accounting.exact_epsilon(
        noise_multiplier=1.6, sampling_prob=1.0, num_steps=1, delta=DELTA
    )
    curve = PLAN.epsilon_curve(DELTA, [0, 1, 2, 3, 6, 12])
    np.testing.assert_allclose(curve[:3], [0, one, one], rtol=1e-9)
    assert curve[3] < curve[4] == curve[5] == PLAN.epsilon(DELTA)
    assert curve[4] == PLAN.epsilon(DELTA, step=5)
    twice = with_changes(relation=REPLACE, noise_multiplier=3.2)
    assert twice.epsilon(DELTA) == pytest.approx(float(PLAN.epsilon(DELTA)), rel=1e-9)
    solved = with_changes(noise_multiplier=None).calibrate(2.0, DELTA)
    assert 1.999 < solved.epsilon(DELTA) <= 2.0
    json.dumps(solved.describe())


def test_an_adversary_who_sees_all_outputs_finds_no_more_than_the_event_says():
    # One example's norm is chosen by what was released before; the loss of the whole
    # course, under the data that hold it, has the delta of the event at most.
    epsilon, steps, runs = 1.0, 8, 1000
    plan = mechanism.DPIndividualSGD(
        num_examples=1,
        expected_batch_size=1,
        num_steps=steps,
        l2_norm_clip=1.0,
        full_steps=2,
        noise_multiplier=1.5,
    )
    gradient = jax.jit(
        lambda state, x: plan.step_gradient(loss)(
            state, jnp.zeros(1), x, mask=jnp.ones(1, bool)
        )[0]
    )
    charge = jax.jit(
        lambda grads, state: plan.optimizer(optax.sgd(1.0), 0).update(
            grads, state, jnp.zeros(1)
        )[1]
    )
    first = plan.optimizer(optax.sgd(1.0), 0).init(jnp.zeros(1))
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * runs), first)
    generator, losses = np.random.default_rng(5), np.zeros(runs)
    for _ in range(steps):
        wanted = np.where(losses > 0, 5.0, 0.4).astype(np.float32)
        grads = jax.vmap(gradient)(states, jnp.asarray(wanted)[:, None, None])
        added = np.asarray(grads.grads.sum, np.float64)[:, 0]
        outputs = generator.normal(added, 1.5)
        losses += added * (outputs - added / 2) / 1.5**2
        states = jax.vmap(charge)(grads, states)
    reached = np.maximum(0, -np.expm1(epsilon - losses))
    allowed = accounting.event_delta(plan.event(), epsilon)
    assert reached.mean() <= allowed + 4 * reached.std() / np.sqrt(runs)
    # The bound is nearly reached: a budget of two thirds would be passed.
    less = dp_accounting.GaussianDpEvent(1.5 * np.sqrt(3 / 4))
    assert reached.mean() > accounting.event_delta(less, epsilon)


@pytest.mark.parametrize("step", [0, 11])
def test_each_step_has_the_noise_that_is_accounted_for(step):
    size = 20_000
    params = jnp.zeros(size)
    optimizer = PLAN.optimizer(optax.identity(), 3)
    state, gradient = optimizer.init(params), PLAN.step_gradient(loss)
    nobody = jnp.ones((4, size)), jnp.zeros(4, bool)
    update = jax.jit(optimizer.update)
    for _ in range(step + 1):
        grads, _ = gradient(state, params, nobody[0], mask=nobody[1])
        average, state = update(grads, state, params)
    claimed = PLAN.noise_stddev
    assert claimed == 1.6 * 0.5 / 4
    within = [
        abs(float(average.std()) / (factor * claimed) - 1) < 5 / np.sqrt(2 * size)
        for factor in (2 / 3, 1, 3 / 2)
    ]
    assert within == [False, True, False]


def fitted(data, **options):
    def squared(params, x):
        return ((params - x) ** 2).sum()

    quiet = training.Logging(every=5, progress=False)
    given = {"key": 1, "delta": DELTA, "logging": quiet} | options
    start = jnp.zeros(data.shape[1])
    return training.fit(PLAN, squared, start, data, optax.sgd(0.1), **given)


DATA = np.random.default_rng(6).normal(size=(COUNT, SIZE)).astype(np.float32)


def test_a_run_spends_what_the_mechanism_says():
    result = fitted(DATA)
    assert result.epsilon["exact"] == pytest.approx(PLAN.epsilon(DELTA), rel=1e-9)
    assert result.steps == 12
    used = np.asarray(result.opt_state[0].used) / optimizers.individual.BUDGET
    assert 0.9 < used.max() <= 1


@pytest.mark.parametrize("split", [False, True])
def test_a_run_on_a_mesh_is_that_of_one_device(split):
    one = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    expected = fitted(DATA, placement=training.Placement(one))
    several = training.Placement(shard_params=split, smallest_split=1)
    found = fitted(DATA, placement=several, microbatch_size=1)
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-4)
    used, there = (np.asarray(r.opt_state[0].used) for r in (found, expected))
    np.testing.assert_allclose(used, there, rtol=1e-4)


def test_a_resumed_run_goes_on_with_the_budgets_that_are_left(tmp_path):
    whole = fitted(DATA)

    class StoppedError(Exception):
        pass

    def evaluate(params):
        raise StoppedError

    often = training.Checkpointing(every=5)
    later = training.Logging(every=10, progress=False)
    options = {"run_dir": tmp_path / "run", "checkpointing": often, "logging": later}
    with pytest.raises(StoppedError):
        fitted(DATA, evaluate=evaluate, **options)
    again = fitted(DATA, resume=True, **options)
    np.testing.assert_array_equal(again.params, whole.params)
    np.testing.assert_array_equal(again.opt_state[0].used, whole.opt_state[0].used)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"full_steps": 0}, "full_steps"),
        ({"full_steps": 2**20 + 1}, "full_steps"),
        ({"full_steps": 1.5}, "full_steps"),
        ({"sampler": sampling.Poisson()}, "Deterministic"),
        ({"sampler": sampling.ShuffledEpochs()}, "Deterministic"),
        ({"l2_norm_clip": clipping.rules.Automatic(1.0)}, "l2_norm_clip"),
        ({"l2_norm_clip": {"w": 1.0}}, "l2_norm_clip"),
        ({"static_batch_size": 3}, "static_batch_size"),
        ({"l2_norm_clip": 1e31}, "2\\^100"),
        ({"l2_norm_clip": 1e-31}, "2\\^100"),
        ({"relation": dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE}, "sound"),
    ],
)
def test_what_has_no_account_is_refused(wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        with_changes(**wrong)


def test_gradients_that_were_not_charged_are_refused():
    optimizer = PLAN.optimizer(optax.sgd(1.0), 0)
    params = jnp.zeros(SIZE)
    state = optimizer.init(params)
    plain = PLAN.clipped_grad(loss)(params, jnp.ones((4, SIZE)))
    for wrong in (plain, jnp.ones((4, SIZE)), None):
        with pytest.raises(TypeError, match="Expected IndividualGrads"):
            optimizer.update(wrong, state, params)
    rows, full = jnp.ones(4, bool), PLAN.full_steps
    for costs, mask, steps in (
        (jnp.ones(4), rows, full + 1),
        (jnp.ones(1), rows[:1], full),
        (jnp.ones(4), rows[:1], full),
        (jnp.ones((4, 1)), rows[:, None], full),
    ):
        grads = optimizers.IndividualGrads(plain, costs, mask, steps)
        with pytest.raises(ValueError, match="Expected"):
            optimizer.update(grads, state, params)
    gradient = PLAN.step_gradient(loss)
    with pytest.raises(ValueError, match=re.escape("a whole batch, of 4 rows")):
        gradient(state, params, jnp.ones((3, SIZE)), mask=None)


@pytest.mark.parametrize("microbatch_size", [None, 2])
@pytest.mark.parametrize(
    ("shares", "error"),
    [
        (np.ones(3), ValueError),
        (1.0, ValueError),
        (np.ones((4, 1)), ValueError),
        ([1.0, 2.0], ValueError),
        (np.ones(4, complex), TypeError),
        (None, TypeError),
        ("half", TypeError),
    ],
)
def test_shares_that_are_not_one_an_example_are_refused(shares, error, microbatch_size):
    clipped = clipping.clipped_grad(loss, 1.0, microbatch_size=microbatch_size)
    rule = clipping.rules.IndividualClip(1.0, shares)
    with pytest.raises(error, match=r"Expected .* shares"):
        clipped(jnp.zeros(SIZE), jnp.ones((4, SIZE)), l2_norm_clip=rule)


def test_shares_are_refused_where_a_clip_norm_stays():
    rule = clipping.rules.IndividualClip(1.0, np.full(4, 0.123))
    for refused in (
        lambda: clipping.clipped_grad(loss, rule),
        lambda: optimizers.dpsgd(0.1, rule, 1.0, 0, expected_batch_size=4),
        lambda: mechanism.DPSGD(
            num_examples=9, expected_batch_size=3, num_steps=3, l2_norm_clip=rule
        ),
    ):
        with pytest.raises(ValueError, match="same for all examples") as raised:
            refused()
        assert "0.123" not in str(raised.value)


def test_metrics_do_not_say_that_nothing_was_clipped():
    result = fitted(DATA)
    lines = [line["not_private"]["fraction_clipped"] for line in result.history]
    assert lines
    assert lines == [None] * len(lines)
    assert "used" not in repr(result)
