import math

import chex
import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from released import (
    BATCH_SIZE,
    PARAMS,
    assert_normal,
    examples,
    flat,
    loss_fn,
    per_example_gradients,
)

from dpjax import accounting, clipping
from dpjax.clipping import rules
from dpjax.clipping.result import ClippedGrads
from dpjax.noise.discrete import discrete_gaussian_noise
from dpjax.optimizers import AdaptiveClip, check_optimizer, privacy_spent
from dpjax.optimizers.aggregate import differentially_private_aggregate
from dpjax.optimizers.discrete_aggregate import discrete_aggregate, discrete_event
from dpjax.optimizers.grid import rounded_sensitivity, usual_granularity

CLIP = 0.5
SIGMA = 1.3
DIVISOR = 8.0
STEP = 2.0**-10
SIZE = 20_000
GRADS = per_example_gradients()


def aggregate(l2_norm_clip=CLIP, noise_multiplier=SIGMA, key=4, **options):
    options = {"granularity": STEP, "expected_batch_size": DIVISOR} | options
    return discrete_aggregate(l2_norm_clip, noise_multiplier, key, **options)


def clipped(total, sensitivity=CLIP):
    return ClippedGrads(total, None, sensitivity, None)


def steps(optimizer, updates, params=PARAMS, count=1, granularity=STEP):
    """Return the integers that one update after `count - 1` others is made of."""
    state = optimizer.init(params)
    for _ in range(count):
        update, state = optimizer.update(updates, state, params)
    return flat(update) * DIVISOR / granularity


# What is claimed is what is released.


@pytest.mark.parametrize(
    ("rounding", "granularity"),
    [
        ("sum", None),
        ("sum", 2.0**-6),
        ("examples", 2.0**-6),
        pytest.param("examples", 2.0**-20, marks=pytest.mark.slow),
    ],
)
def test_the_noise_that_is_claimed_is_the_noise_that_is_released(rounding, granularity):
    params = jnp.zeros(SIZE)
    optimizer = aggregate(granularity=granularity, rounding=rounding)
    state = optimizer.init(params)
    update, _ = optimizer.update(clipped(params), state, params)
    step = granularity or usual_granularity(CLIP, SIZE)
    moved = 0.5 if rounding == "examples" else 1.0
    sensitivity = rounded_sensitivity(CLIP, step, SIZE, moved=moved) * step
    multiplier = math.sqrt(0.5 / discrete_event(SIGMA).rho)
    assert multiplier == pytest.approx(SIGMA, rel=1e-12)
    # It is accepted at sigma, and would be rejected at 2/3 and 3/2 of it.
    assert_normal(flat(update) * DIVISOR / sensitivity, multiplier)


def test_the_update_is_the_rounded_sum_and_integers_over_the_divisor():
    grads = clipping.clipped_grad(loss_fn, CLIP)(PARAMS, *examples())
    found = steps(aggregate(), grads, count=3)
    stddev = SIGMA * rounded_sensitivity(CLIP, STEP, 18)
    words = np.array([0, 4], np.uint32)
    drawn = discrete_gaussian_noise(words, 2, PARAMS, stddev)
    expected = np.rint(flat(grads.sum) / STEP) + flat(drawn)
    np.testing.assert_allclose(found, expected, rtol=3e-7)


def test_without_noise_the_updates_are_the_plain_averages_on_the_grid():
    plain = differentially_private_aggregate(CLIP, 0.0, 0, expected_batch_size=DIVISOR)
    expected, _ = plain.update(GRADS, plain.init(PARAMS), PARAMS)
    found = steps(aggregate(noise_multiplier=0.0), GRADS) * STEP
    np.testing.assert_allclose(found, flat(expected) * DIVISOR, atol=STEP * 0.5001)
    assert np.all(found / STEP == np.rint(found / STEP))


# Sensitivity, rounding included: integers, compared exactly.


def integers(optimizer, total):
    """Return the sum in steps of the grid; the noise is the same for all sums."""
    params = jnp.zeros(np.shape(total))
    return steps(optimizer, clipped(jnp.asarray(total, jnp.float32)), params)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("granularity", [2.0**-10, 2.0**-4, 0.25, 2.0])
def test_one_example_moves_the_integers_by_the_sensitivity_with_its_rounding(
    seed, granularity
):
    generator = np.random.default_rng(seed)
    optimizer = aggregate(noise_multiplier=0.0, granularity=granularity)
    scale = STEP / granularity
    stated = rounded_sensitivity(CLIP, granularity, 50)
    # Multiples of 2^-20: all sums are exact in float32.
    total, one, other = (np.rint(generator.normal(size=(3, 50)) * 2**20)) / 2**20
    one, other = (
        np.trunc(v * CLIP / np.linalg.norm(v) * 2**20) / 2**20 for v in (one, other)
    )
    found = [scale * integers(optimizer, total + v) for v in (one, other, 0 * one)]
    assert np.linalg.norm(found[0] - found[2]) <= stated
    assert np.linalg.norm(found[1] - found[2]) <= stated
    assert np.linalg.norm(found[0] - found[1]) <= 2 * stated


def test_the_bound_is_reached_where_others_are_just_below_a_half():
    optimizer = aggregate(noise_multiplier=0.0)
    total = np.full(100, 0.5 * STEP - 2.0**-20, np.float32)
    move = np.full(100, 3 * STEP + 2.0**-19, np.float32)
    moved = integers(optimizer, total + move) - integers(optimizer, total)
    clip = float(np.linalg.norm(move.astype(np.float64)))
    assert np.linalg.norm(moved) == 40.0 > clip / STEP + 9
    assert rounded_sensitivity(clip, STEP, 100) == pytest.approx(40.0, rel=1e-2)
    assert rounded_sensitivity(clip, STEP, 100) >= 40.0


# The state.


def test_what_was_spent_is_what_zcdp_says():
    optimizer = optax.chain(aggregate(), optax.sgd(0.1))
    state = optimizer.init(PARAMS)
    for _ in range(3):
        _, state = optimizer.update(GRADS, state, PARAMS)
    spent = privacy_spent(state, 1e-5)
    event = dp_accounting.ZCDpEvent(3 * 0.5 / SIGMA**2)
    assert spent.epsilon == pytest.approx(accounting.event_epsilon(event, 1e-5))
    gaussian = dp_accounting.GaussianDpEvent(SIGMA / math.sqrt(3))
    assert spent.epsilon > accounting.event_epsilon(gaussian, 1e-5)
    assert spent.steps == 3
    silent = aggregate(noise_multiplier=0.0)
    _, state = silent.update(GRADS, silent.init(PARAMS), PARAMS)
    assert privacy_spent(state, 1e-5).epsilon == math.inf


def test_noise_is_a_pure_function_of_key_step_and_leaf():
    zero = clipped({"a": jnp.zeros(999), "b": jnp.zeros(999)})
    params = zero.sum
    plain = steps(aggregate(), zero, params)
    np.testing.assert_array_equal(plain, steps(aggregate(), zero, params))
    optimizer = aggregate()
    jitted, state = jax.jit(optimizer.update)(zero, optimizer.init(params), params)
    np.testing.assert_array_equal(flat(jitted) * DIVISOR / STEP, plain)
    assert int(state.private.step) == 1
    others = [
        plain[999:],
        steps(aggregate(key=5), zero, params)[:999],
        steps(aggregate(), zero, params, count=2)[:999],
    ]
    for other in others:
        assert abs(np.corrcoef(plain[:999], other)[0, 1]) < 5 / math.sqrt(999)


def test_inside_a_scan_it_draws_what_the_loop_draws():
    optimizer, params = aggregate(), jnp.zeros(50)

    def step(state, _):
        update, state = optimizer.update(clipped(params), state, params)
        return state, update

    _, rows = jax.lax.scan(step, optimizer.init(params), length=3)
    found = flat(rows[2]) * DIVISOR / STEP
    np.testing.assert_array_equal(found, steps(optimizer, clipped(params), params, 3))


def test_all_ways_to_give_gradients_agree():
    optimizer = aggregate()
    state = optimizer.init(PARAMS)
    batch = examples()
    ways = [
        optimizer.update(GRADS, state, PARAMS)[0],
        optimizer.update(
            clipping.clipped_grad(loss_fn, CLIP)(PARAMS, *batch), state, PARAMS
        )[0],
        optimizer.update(None, state, PARAMS, loss_fn=loss_fn, batch=batch)[0],
    ]
    for other in ways[1:]:
        chex.assert_trees_all_close(other, ways[0], atol=1.01 * STEP / DIVISOR)
    fixed = aggregate(expected_batch_size=None)
    update, _ = fixed.update(GRADS, fixed.init(PARAMS), PARAMS)
    np.testing.assert_allclose(
        flat(update) * BATCH_SIZE, flat(ways[0]) * DIVISOR, rtol=1e-5
    )


def test_updates_have_the_dtypes_of_the_parameters():
    params = {"a": jnp.zeros(3, jnp.bfloat16), "b": jnp.zeros(2, jnp.float16)}
    sums = jax.tree.map(lambda p: jnp.ones(p.shape, jnp.float32), params)
    optimizer = aggregate()
    update, _ = optimizer.update(clipped(sums), optimizer.init(params), params)
    assert jax.tree.map(lambda u: u.dtype, update) == jax.tree.map(
        lambda p: p.dtype, params
    )


def test_sums_of_64_bits_keep_them():
    with jax.enable_x64(True):
        params = jnp.zeros(4, jnp.float64)
        total = jnp.asarray([1.0, 2.0**-30, 1 + 2.0**-40, -3.0])
        optimizer = aggregate(noise_multiplier=0.0, granularity=2.0**-40)
        update, _ = optimizer.update(clipped(total), optimizer.init(params), params)
        np.testing.assert_array_equal(np.asarray(update) * DIVISOR, total)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_a_sum_that_is_not_finite_is_never_silent(value):
    params = jnp.zeros(3)
    optimizer = aggregate()
    total = params.at[1].set(value)
    update, _ = optimizer.update(clipped(total), optimizer.init(params), params)
    is_large = np.isnan(update) | (np.abs(update) > 1e6)
    np.testing.assert_array_equal(is_large, [False, True, False])


def test_neighbours_of_sums_at_the_end_of_the_grid_are_not_told_apart():
    params = jnp.zeros(2)
    optimizer = aggregate(granularity=2.0**-39, noise_multiplier=1.0)
    state = optimizer.init(params)
    for total in (8192.0, 8193.0):  # 2^52 steps, and more
        update, _ = optimizer.update(clipped(params.at[0].set(total)), state, params)
        assert np.all(np.isfinite(update))


def test_a_sum_of_examples_that_were_not_rounded_is_never_silent():
    optimizer = aggregate(rounding="examples")
    state = optimizer.init(PARAMS)
    grads = clipping.clipped_grad(loss_fn, CLIP)(PARAMS, *examples())
    update, _ = optimizer.update(grads, state, PARAMS)
    assert np.isnan(flat(update)).any()
    # Per-example gradients are summed here, with the noise of a rounded sum.
    noise = [
        steps(aggregate(rounding=r), jax.tree.map(jnp.zeros_like, GRADS))
        for r in ("examples", "sum")
    ]
    np.testing.assert_array_equal(*noise)


@pytest.mark.parametrize(
    "rule",
    [CLIP, {"w": 0.3, "b": 0.4}, rules.Automatic(CLIP), rules.PerSampleAdaptive(CLIP)],
    ids=["norm", "groups", "automatic", "per-sample adaptive"],
)
def test_it_is_lawful_with_every_static_rule_and_nothing_stands_before_it(rule):
    check_optimizer(optax.chain(aggregate(rule), optax.adam(0.1)), PARAMS)
    mixing = optax.chain(optax.clip_by_global_norm(1.0), aggregate(rule))
    with pytest.raises(ValueError, match="mixes"):
        check_optimizer(mixing, PARAMS)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"granularity": 0.3}, ValueError, "power of two"),
        ({"granularity": "fine"}, TypeError, "granularity"),
        ({"rounding": "none"}, ValueError, "rounding"),
        ({"rounding": "examples", "granularity": None}, ValueError, "granularity"),
        ({"noise_multiplier": -1.0}, ValueError, "noise_multiplier"),
        ({"noise_multiplier": jnp.float32(1.0)}, TypeError, "noise_multiplier"),
        ({"l2_norm_clip": jnp.float32(1.0)}, ValueError, "l2_norm_clip"),
        (
            {"l2_norm_clip": AdaptiveClip(initial_l2_norm_clip=1.0)},
            TypeError,
            "l2_norm_clip",
        ),
        ({"expected_batch_size": 0}, ValueError, "expected_batch_size"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        aggregate(**options)


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (lambda o: o.init(jnp.zeros(3, complex)), TypeError, "real leaves"),
        (lambda o: o.init(jnp.zeros(3, int)), TypeError, "floating-point"),
        (lambda o: aggregate(granularity=2.0**-60).init(PARAMS), ValueError, "2\\*\\*"),
        (
            lambda o: optax.masked(o, {"w": True, "b": False}).init(PARAMS),
            ValueError,
            "whole gradient",
        ),
        (lambda o: jax.eval_shape(aggregate(key=None).init, PARAMS), TypeError, "key"),
        (lambda o: o.update(clipped(PARAMS, 0.6), o.init(PARAMS)), ValueError, "0.6"),
    ],
)
def test_what_cannot_be_private_is_refused(attempt, error, message):
    with pytest.raises(error, match=message):
        attempt(aggregate())
