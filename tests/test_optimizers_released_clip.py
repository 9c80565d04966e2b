"""Clips that follow what was released before, as a mechanism and a run hold them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dpjax
from dpjax import optimizers, training
from dpjax.optimizers import ScaledClip, SparseRowClip
from dpjax.optimizers.sparse_rows import SparseRowState
from dpjax.optimizers.states import the_state

COUNT, ROWS, WIDTH = 96, 40, 3
IDS = np.where(np.arange(COUNT) % 2, 7, np.arange(COUNT) % ROWS)
TARGETS = np.random.default_rng(0).normal(size=(COUNT, WIDTH)).astype(np.float32)
PARAMS = {"table": jnp.zeros((ROWS, WIDTH)), "bias": jnp.zeros(WIDTH)}
PLAN = dpjax.DPSGD(
    num_examples=COUNT,
    expected_batch_size=48,
    num_steps=4,
    l2_norm_clip=0.5,
    noise_multiplier=0.8,
    static_batch_size=16,
)
SCALED = ScaledClip(l2_norm_clip=0.5, stability=0.02, decay=0.9)
SPARSE = SparseRowClip(
    l2_norm_clip=0.5, tables="table", threshold=12.0, count_noise_ratio=3.0
)


def loss(params, index, target):
    found = params["table"][index] + params["bias"]
    return 0.5 * jnp.sum(jnp.square(found - target))


def dropped(params, index, target, key):
    keep = jax.random.bernoulli(key, 0.5, (WIDTH,))
    return loss(params, index, target * keep)


def plan_with(clip, **changes):
    return dataclasses.replace(PLAN, l2_norm_clip=clip, **changes)


def run(plan, loss_fn=loss, **options):
    settings = {
        "key": 5,
        "delta": 1e-5,
        "logging": training.Logging(every=2, progress=False),
    }
    optimizer = options.pop("optimizer", optax.sgd(0.5))
    data = (IDS, TARGETS)
    return training.fit(plan, loss_fn, PARAMS, data, optimizer, **settings | options)


@functools.cache
def by_hand(plan):
    """Take the same steps with per-example gradients of whole batches."""
    private = plan.optimizer(optax.sgd(0.5), 5)
    state, params = private.init(PARAMS), PARAMS
    per_example = dpjax.per_example_grad(loss)
    for chunks in plan.batches(5):
        index = np.concatenate([i for i, _ in chunks])
        mask = np.concatenate([m for _, m in chunks])
        grads = per_example(params, IDS[index], TARGETS[index])
        updates, state = private.update(grads, state, params, mask=mask)
        params = optax.apply_updates(params, updates)
    return params, state


@functools.cache
def plain():
    return run(PLAN)


@pytest.mark.parametrize("clip", [SCALED, SPARSE], ids=["scaled", "sparse rows"])
@pytest.mark.parametrize(
    "engine", ["auto", pytest.param("vmap", marks=pytest.mark.slow)]
)
def test_a_run_in_chunks_takes_the_steps_of_whole_batches(clip, engine):
    plan = plan_with(clip)
    params, state = by_hand(plan)
    result = run(plan, engine=engine)
    for name, leaf in params.items():
        np.testing.assert_allclose(result.params[name], leaf, rtol=2e-4, atol=1e-5)
    spent = optimizers.privacy_spent(state, 1e-5).epsilon
    assert optimizers.privacy_spent(result.opt_state, 1e-5).epsilon == spent
    assert result.epsilon == plain().epsilon
    assert not np.allclose(result.params["table"], plain().params["table"])


@pytest.mark.slow
@pytest.mark.parametrize("clip", [SCALED, SPARSE], ids=["scaled", "sparse rows"])
def test_microbatches_and_a_loss_with_a_key_change_no_more_than_rounding(clip):
    plan = plan_with(clip)
    whole = run(plan, dropped, prng_argnum=3)
    pieces = run(plan, dropped, prng_argnum=3, microbatch_size=5)
    for name, leaf in whole.params.items():
        np.testing.assert_allclose(pieces.params[name], leaf, rtol=1e-4, atol=1e-6)
    assert not np.allclose(whole.params["bias"], run(plan).params["bias"])


def test_only_rows_that_are_touched_often_ever_move():
    result = run(plan_with(SPARSE))
    moved = np.flatnonzero(np.any(result.params["table"] != 0, axis=1))
    assert 7 in moved
    assert len(moved) < ROWS / 2
    assert len(np.flatnonzero(np.any(plain().params["table"] != 0, axis=1))) == ROWS
    chosen = the_state(result.opt_state, SparseRowState).rows[0]
    assert set(np.flatnonzero(chosen)) <= set(moved)


@pytest.mark.parametrize("engine", ["vmap", "bookkeeping"])
@pytest.mark.parametrize("clip", [SCALED, SPARSE], ids=["scaled", "sparse rows"])
def test_one_example_moves_a_step_by_at_most_the_clip_norm(clip, engine):
    plan = plan_with(clip)
    _, state = by_hand(plan)
    gradient = plan.step_gradient(loss, engine=engine)
    rows, everyone = jnp.full(6, 7), jnp.ones(6, bool)

    @jax.jit
    def total(extreme, mask):
        target = jnp.asarray(TARGETS[:6]).at[2].multiply(extreme)
        return gradient(state, PARAMS, rows, target, mask=mask)[0].grads.sum

    for extreme in (1.0, 1e6, 1e30, 1e-30, np.nan, np.inf):
        pair = (total(extreme, everyone), total(extreme, everyone.at[2].set(False)))
        moved = jax.tree.map(lambda a, b: np.float64(a) - np.float64(b), *pair)
        norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in moved.values()))
        assert norm <= 0.5 * (1 + 1e-5)
        assert (norm > 0.4) == (extreme >= 1 and np.isfinite(extreme))


@pytest.mark.parametrize("touched", ["one", "padding", "nan"])
def test_one_example_moves_the_counts_by_at_most_their_clip(touched):
    def two_rows(params, index, scale):
        return scale * (params["table"][index].sum() + params["table"][index + 1].sum())

    survey = plan_with(SPARSE).survey(two_rows)
    scale = jnp.array([1.0, 1.0, np.nan if touched == "nan" else 1e-30])
    mask = jnp.array([True, True, touched != "padding"])

    def counts(mask):
        found = survey.look(None, PARAMS, jnp.array([3, 9, 20]), scale, mask=mask)
        return np.float64(found.rows_touched[0])

    without = counts(mask.at[2].set(False))
    assert without.sum() == pytest.approx(4 / np.sqrt(2))
    moved = np.linalg.norm(counts(mask) - without)
    assert moved <= 1
    assert (moved > 0.999) == (touched == "one")


def test_the_noise_follows_the_clip_norm_and_the_event_does_not():
    clip = optimizers.ScheduledClip(
        initial_l2_norm_clip=2.0, final_l2_norm_clip=0.125, num_steps=3
    )
    params = jnp.zeros(20_000)
    plan = plan_with(clip, noise_multiplier=1.5)
    gradient = plan.step_gradient(jnp.vdot)
    private = plan.optimizer(optax.identity(), 3)
    state = private.init(params)
    batch = jnp.zeros((2, 20_000)).at[0].set(1.0)
    for wanted in (2.0, 0.5, 0.125, 0.125):
        grads, _ = gradient(state, params, batch, mask=jnp.array([True, False]))
        assert float(jnp.linalg.norm(grads.sum)) == pytest.approx(wanted, rel=1e-5)
        assert float(grads.sensitivity) == pytest.approx(wanted, rel=1e-6)
        empty, _ = gradient(state, params, batch, mask=jnp.zeros(2, bool))
        average, state = private.update(empty, state, params)
        spread = float(average.std()) * plan.expected_batch_size
        within = [
            abs(spread / (factor * 1.5 * wanted) - 1) < 5 / np.sqrt(2 * 20_000)
            for factor in (2 / 3, 1, 3 / 2)
        ]
        assert within == [False, True, False]
    assert plan.event() == plan_with(0.5, noise_multiplier=1.5).event()


def test_settings_out_of_range_are_refused():
    for wrong in ({"stability": 0.0}, {"stability": 1.0, "decay": 1.5}):
        with pytest.raises(ValueError, match="Expected"):
            ScaledClip(l2_norm_clip=1.0, **wrong)
    for wrong in ({"count_noise_ratio": 1.0}, {"count_clip": 0.0}):
        with pytest.raises(ValueError, match="Expected"):
            dataclasses.replace(SPARSE, **wrong)
    with pytest.raises(ValueError, match="Expected"):
        optimizers.ScheduledClip(
            initial_l2_norm_clip=1.0, final_l2_norm_clip=0.0, num_steps=9
        )
    nowhere = plan_with(dataclasses.replace(SPARSE, tables="embedding"))
    with pytest.raises(ValueError, match="at least one table"):
        run(nowhere)
    with pytest.raises(ValueError, match="exactly one private"):
        run(plan_with(SPARSE), optimizer=dpjax.dpsgd(0.1, 1.0, 1.0, 0))


def test_calibration_moves_both_noises():
    plan = plan_with(SPARSE, noise_multiplier=None).calibrate(3.0, 1e-5)
    assert plan.epsilon(1e-5) <= 3.0
    assert (
        plan.event() == plan_with(0.5, noise_multiplier=plan.noise_multiplier).event()
    )
    assert plan.optimizer(optax.sgd(0.1), 0).init(PARAMS) is not None
    assert plan.is_adaptive
    assert plan.describe()["l2_norm_clip"] == repr(SPARSE)
