import functools
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from released import (
    BATCH_SIZE,
    PARAMS,
    assert_normal,
    examples,
    flat,
    loss_fn,
    normal_rows,
    per_example_gradients,
    unit_noise,
)

from dpjax import clipping, noise
from dpjax.optimizers import (
    average_gradients,
    differentially_private_aggregate,
    segments,
)

GRADS = per_example_gradients()
CLIPPED_GRAD = clipping.clipped_grad(loss_fn, 0.5)
HALF = jnp.arange(BATCH_SIZE) < 4


def aggregate(l2_norm_clip=0.5, noise_multiplier=0.0, key=0, **options):
    return differentially_private_aggregate(
        l2_norm_clip, noise_multiplier, key, **options
    )


def step(transformation, updates, params=PARAMS, **extra_args):
    state = transformation.init(PARAMS if params is None else params)
    return transformation.update(updates, state, params, **extra_args)[0]


def clipped_mean(grads, l2_norm_clip, divisor=BATCH_SIZE):
    """Clip and average row by row, in float64."""
    rows = np.concatenate(
        [np.asarray(g, np.float64).reshape(len(g), -1) for g in jax.tree.leaves(grads)],
        axis=1,
    )
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows * np.minimum(1, l2_norm_clip / norms)).sum(axis=0) / divisor


# What comes out.


@pytest.mark.parametrize("l2_norm_clip", [0.5, 1e6])
def test_update_without_noise_is_the_average_of_clipped_gradients(l2_norm_clip):
    update = step(aggregate(l2_norm_clip), GRADS)
    expected = clipped_mean(GRADS, l2_norm_clip)
    np.testing.assert_allclose(flat(update), expected, rtol=2e-5, atol=1e-7)


def test_update_is_the_average_plus_noise_of_the_stated_size():
    private = aggregate(0.5, 1.5, expected_batch_size=20)
    state = private.init(PARAMS)
    update, _ = private.update(GRADS, state, PARAMS)
    # Noise on the sum: 1.5 x 0.5.
    expected = clipped_mean(GRADS, 0.5, 20) + 0.75 * unit_noise(state, PARAMS) / 20
    np.testing.assert_allclose(flat(update), expected, rtol=1e-4, atol=1e-7)


def test_static_length_of_the_batch_divides_unless_a_public_divisor_is_given():
    fixed, public = (
        step(aggregate(), GRADS),
        step(aggregate(expected_batch_size=21), GRADS),
    )
    chex.assert_trees_all_close(fixed, jax.tree.map(lambda u: 3 * u, public), rtol=1e-6)


def test_params_are_not_needed_for_plain_gradients():
    chex.assert_trees_all_equal(
        step(aggregate(), GRADS, None), step(aggregate(), GRADS)
    )


def test_three_ways_to_hand_over_a_batch_give_the_same_update():
    private = aggregate(0.5, 1.0, expected_batch_size=7)
    grads = CLIPPED_GRAD(PARAMS, *examples())
    inside = step(private, None, loss_fn=loss_fn, batch=examples())
    chex.assert_trees_all_close(step(private, GRADS), inside, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(step(private, grads), inside, rtol=1e-6)


class Pair(NamedTuple):
    x: jax.Array
    y: jax.Array


def test_batch_that_is_no_plain_tuple_is_one_argument():
    def of_pair(params, pair):
        return loss_fn(params, pair.x, pair.y)

    inside = step(aggregate(), None, loss_fn=of_pair, batch=Pair(*examples()))
    chex.assert_trees_all_close(inside, step(aggregate(), GRADS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", ["plain", "clipped", "inside"])
def test_masked_rows_contribute_nothing(way):
    private = aggregate(0.5, expected_batch_size=5)
    batch = examples()
    padded = (batch[0].at[4:].set(jnp.nan), batch[1])
    if way == "plain":
        masked = step(private, per_example_gradients(batch=padded), mask=HALF)
    elif way == "clipped":
        grads = CLIPPED_GRAD(PARAMS, *padded, mask=HALF)
        masked = step(private, grads)
    else:
        masked = step(private, None, loss_fn=loss_fn, batch=padded, mask=HALF)
    alone = step(private, jax.tree.map(lambda g: g[:4], GRADS))
    chex.assert_trees_all_close(masked, alone, rtol=1e-5, atol=1e-7)


def test_example_with_a_gradient_that_is_not_finite_contributes_nothing():
    broken = jax.tree.map(lambda g: g.at[2].set(jnp.inf), GRADS)
    broken["b"] = broken["b"].at[2, 0].set(jnp.nan)
    private = aggregate(0.5, expected_batch_size=7)
    without = jax.tree.map(lambda g: jnp.delete(g, 2, axis=0), GRADS)
    chex.assert_trees_all_close(
        step(private, broken), step(private, without), rtol=1e-5, atol=1e-7
    )


def test_sums_of_disjoint_batches_are_added_before_the_noise():
    private = aggregate(0.5, 1.0)
    x, y = examples(14)
    parts = CLIPPED_GRAD(PARAMS, x[:7], y[:7]) + CLIPPED_GRAD(PARAMS, x[7:], y[7:])
    whole = CLIPPED_GRAD(PARAMS, x, y)
    chex.assert_trees_all_close(
        step(private, parts), step(private, whole), rtol=1e-5, atol=1e-6
    )


def test_groups_are_clipped_each_to_its_own_norm():
    clip_norms = {"w": 0.5, "b": 0.1}
    update = step(aggregate(clip_norms), GRADS)
    for name, clip_norm in clip_norms.items():
        expected = clipped_mean(GRADS[name], clip_norm)
        np.testing.assert_allclose(flat(update[name]), expected, rtol=1e-4, atol=1e-7)


def test_noise_of_groups_follows_their_joint_sensitivity():
    private = aggregate({"w": 0.3, "b": 0.4}, 2.0, expected_batch_size=1)
    zeros = jax.tree.map(jnp.zeros_like, GRADS)
    noise_on_sum = flat(step(private, zeros))
    expected = 2.0 * 0.5 * unit_noise(private.init(PARAMS), PARAMS)
    np.testing.assert_allclose(noise_on_sum, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_dtype_in_is_dtype_out_for_plain_gradients(dtype):
    grads = jax.tree.map(lambda g: g.astype(dtype), GRADS)
    chex.assert_trees_all_equal_dtypes(
        step(aggregate(0.5, 1.0), grads), jax.tree.map(lambda g: g[0], grads)
    )


def test_double_precision_is_kept_and_the_state_stays_as_it_is():
    private = aggregate(0.5, 1 / 3, expected_batch_size=10, sampling_prob=0.1)
    with jax.enable_x64(True):
        grads = jax.tree.map(lambda g: jnp.asarray(g, jnp.float64), GRADS)
        state = private.init(PARAMS)
        update, state_after = private.update(grads, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(state_after, state)
    assert {leaf.dtype for leaf in jax.tree.leaves(update)} == {jnp.dtype(np.float64)}
    # float32 would leave an error of about 1e-7.
    noiseless = flat(update) - unit_noise_of_double(state, grads) / 3 * 0.5 / 10
    np.testing.assert_allclose(noiseless, clipped_mean(GRADS, 0.5, 10), atol=1e-9)


def unit_noise_of_double(state, grads):
    with jax.enable_x64(True):
        return unit_noise(state, jax.tree.map(lambda g: g[0], grads))


def test_updates_of_clipped_grads_have_the_dtypes_of_the_params():
    params = {"w": PARAMS["w"].astype(jnp.bfloat16), "b": PARAMS["b"]}
    grads = CLIPPED_GRAD(params, *examples())
    update = step(aggregate(0.5, 1.0), grads, params)
    chex.assert_trees_all_equal_dtypes(update, params)
    chex.assert_trees_all_equal_shapes(update, params)


def test_low_precision_is_left_only_at_the_very_end():
    # 2^12 equal rows: a bfloat16 sum would stop growing at 2^8 of them.
    grads = {"w": jnp.full((4096, 1), 1.0, jnp.bfloat16)}
    private = aggregate(1e3)
    update, _ = private.update(grads, private.init({"w": jnp.zeros(1)}))
    np.testing.assert_array_equal(np.asarray(update["w"], np.float32), 1.0)


def test_complex_parameters_get_noise_in_both_parts():
    params = jnp.zeros(2_000, jnp.complex64)
    private = aggregate(0.5, 2.0, expected_batch_size=1)
    zeros = jnp.zeros((3, 2_000), jnp.complex64)
    update, _ = private.update(zeros, private.init(params), params)
    assert update.dtype == jnp.complex64
    assert_normal(np.concatenate([update.real, update.imag]).astype(np.float64), 1.0)


# The divisor is public.


def test_empty_batch_is_pure_noise():
    private = aggregate(0.5, 2.0, expected_batch_size=10)
    state = private.init(PARAMS)
    expected = unit_noise(state, PARAMS) * 2.0 * 0.5 / 10
    nobody = jax.tree.map(lambda g: g[:0], GRADS)
    x, y = examples()
    updates = [
        step(private, nobody),
        step(private, GRADS, mask=jnp.zeros(BATCH_SIZE, bool)),
        step(private, None, loss_fn=loss_fn, batch=(x[:0], y[:0])),
        step(private, CLIPPED_GRAD(PARAMS, x[:0], y[:0])),
    ]
    for update in updates:
        np.testing.assert_allclose(flat(update), expected, rtol=1e-6)


def test_mask_needs_a_public_divisor():
    with pytest.raises(ValueError, match="Expected expected_batch_size with a mask"):
        step(aggregate(), GRADS, mask=HALF)
    grads = CLIPPED_GRAD(PARAMS, *examples(), mask=HALF)
    with pytest.raises(ValueError, match="number of unmasked examples is private"):
        step(aggregate(), grads)


def test_sampling_needs_a_public_divisor():
    with pytest.raises(ValueError, match="size of a sampled batch is private"):
        aggregate(sampling_prob=0.1)


def test_batch_that_may_be_empty_needs_a_public_divisor():
    with pytest.raises(ValueError, match="batch that can be empty"):
        step(aggregate(), jax.tree.map(lambda g: g[:0], GRADS))


# Sensitivity.


def test_static_sensitivity_that_disagrees_is_refused():
    grads = CLIPPED_GRAD(PARAMS, *examples())
    with pytest.raises(ValueError, match=r"sensitivity 1\.0.*got sensitivity=0\.5"):
        step(aggregate(1.0, 1.0), grads)


def test_gradients_that_were_not_clipped_are_refused():
    grads = clipping.summed_grad(loss_fn)(PARAMS, *examples())
    with pytest.raises(ValueError, match="sensitivity=inf"):
        step(aggregate(0.5, 1.0), grads)


def test_noise_follows_the_sensitivity_that_the_gradients_carry():
    private = aggregate(0.5, 2.0, expected_batch_size=1)
    x, y = examples()

    @jax.jit
    def update(clip_norm):
        grads = CLIPPED_GRAD(PARAMS, x[:0], y[:0], l2_norm_clip=clip_norm)
        return step(private, grads)

    for clip_norm in (0.25, 4.0):
        expected = 2.0 * clip_norm * unit_noise(private.init(PARAMS), PARAMS)
        np.testing.assert_allclose(flat(update(clip_norm)), expected, rtol=1e-6)


def test_noise_multiplier_in_low_precision_still_gives_the_noise_that_is_counted():
    # The product of two bfloat16 numbers would be off by up to 2^-9.
    clip_norm, multiplier = jnp.bfloat16(0.3), jnp.bfloat16(1.1)
    private = aggregate(clip_norm, multiplier, expected_batch_size=1)
    state = private.init(PARAMS)
    zeros = jax.tree.map(jnp.zeros_like, GRADS)
    update, state_after = private.update(zeros, state, PARAMS)
    claimed = segments.read(state_after.segments)[0].noise_multiplier
    assert claimed == float(multiplier)
    expected = claimed * float(clip_norm) * unit_noise(state, PARAMS)
    np.testing.assert_allclose(flat(update), expected, rtol=1e-6)


# Keys and state.


@pytest.mark.parametrize(
    "key",
    [
        7,
        np.int64(7),
        jnp.int32(7),
        jax.random.key(7),
        jax.random.key_data(jax.random.key(7)),
        np.array([0, 7], np.uint32),
    ],
    ids=["int", "numpy", "array", "typed", "raw", "raw numpy"],
)
def test_all_forms_of_one_key_give_the_same_noise(key):
    chex.assert_trees_all_equal(
        step(aggregate(0.5, 1.0, key), GRADS), step(aggregate(0.5, 1.0, 7), GRADS)
    )


def test_seed_is_the_old_keyword_for_an_integer_key():
    old = differentially_private_aggregate(0.5, 1.0, seed=7)
    chex.assert_trees_all_equal(step(old, GRADS), step(aggregate(0.5, 1.0, 7), GRADS))
    with pytest.raises(ValueError, match="only one of key and seed"):
        differentially_private_aggregate(0.5, 1.0, 3, seed=7)


def test_without_a_key_every_init_draws_another_one():
    private = aggregate(0.5, 1.0, None)
    first, second = private.init(PARAMS), private.init(PARAMS)
    assert not np.array_equal(first.key, second.key)


def test_without_a_key_init_under_a_trace_is_a_typed_error():
    private = aggregate(0.5, 1.0, None)
    with pytest.raises(TypeError, match="explicit key"):
        jax.jit(private.init)(PARAMS)
    with pytest.raises(TypeError, match="explicit key"):
        jax.jit(lambda: private.init(PARAMS))()
    with pytest.raises(TypeError, match="explicit key"):
        jax.eval_shape(private.init, PARAMS)


def test_key_may_be_traced():
    def init(key):
        return aggregate(0.5, 1.0, key).init(PARAMS).key

    seeds = jnp.arange(3)
    keys = jax.vmap(init)(seeds)
    np.testing.assert_array_equal(keys, np.stack([[0, 0], [0, 1], [0, 2]]))
    np.testing.assert_array_equal(jax.jit(init)(jax.random.key(5)), [0, 5])


def test_state_is_made_of_plain_arrays():
    state = aggregate(0.5, 1.0).init(PARAMS)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(state)}
    assert dtypes == {jnp.dtype(jnp.uint32)}


def test_two_steps_differ_and_one_step_repeats():
    private = aggregate(0.5, 1.0)
    state = private.init(PARAMS)
    first, state_after = private.update(GRADS, state, PARAMS)
    again, _ = private.update(GRADS, state, PARAMS)
    second, _ = private.update(GRADS, state_after, PARAMS)
    chex.assert_trees_all_equal(first, again)
    assert not np.intersect1d(flat(first), flat(second)).size


# Under transformations.


def test_steps_in_a_scan_are_those_of_a_loop():
    private = aggregate(0.5, 1.0, expected_batch_size=10, sampling_prob=0.1)

    def one(state, _):
        update, state = private.update(GRADS, state, PARAMS)
        return state, update

    state = private.init(PARAMS)
    scanned, updates = jax.lax.scan(one, state, length=4)
    looped = []
    for _ in range(4):
        update, state = jax.jit(private.update)(GRADS, state, PARAMS)
        looped.append(update)
    chex.assert_trees_all_equal(scanned, state)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped)
    chex.assert_trees_all_close(updates, stacked, rtol=1e-5, atol=1e-7)


def test_update_is_compiled_once_for_all_steps():
    private = aggregate(0.5, 1.0)
    update = jax.jit(chex.assert_max_traces(private.update, n=1))
    state = private.init(PARAMS)
    for _ in range(3):
        _, state = update(GRADS, state, PARAMS)
    assert int(state.step) == 3


def test_batch_on_two_devices_gives_the_update_of_one():
    private = aggregate(0.5, 1.0)
    grads = normal_rows(PARAMS, batch_size=8)
    mesh = Mesh(np.array(jax.devices()[:2]), ("batch",))
    sharded = jax.device_put(grads, NamedSharding(mesh, PartitionSpec("batch")))
    state = private.init(PARAMS)
    one, _ = jax.jit(private.update)(grads, state)
    two, _ = jax.jit(private.update)(sharded, state)
    chex.assert_trees_all_close(one, two, rtol=1e-6, atol=1e-7)


def test_nested_trees_with_holes_are_kept_as_they_are():
    params = {"a": [jnp.ones(2), None], "b": (jnp.ones((1, 3)),)}
    grads = normal_rows(params)
    update = step(aggregate(0.5, 1.0), grads, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(update, params)


def test_scalars_are_legal_parameters():
    update = step(aggregate(10.0), {"a": jnp.arange(4.0)}, {"a": jnp.float32(0)})
    assert update["a"].shape == ()
    np.testing.assert_allclose(update["a"], 1.5, rtol=1e-5)


# Bad input.


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, -math.inf, 0.0])
def test_clip_norm_must_be_finite_and_positive(value):
    with pytest.raises(ValueError, match=r"Expected a .*number.*got l2_norm_clip="):
        aggregate(value)


@pytest.mark.parametrize("value", [-1e-9, -2.0, math.nan, math.inf, -math.inf])
def test_noise_multiplier_must_be_finite_and_not_negative(value):
    with pytest.raises(ValueError, match=r"Expected a .*number.*got noise_multiplier="):
        aggregate(1.0, value)


@pytest.mark.parametrize("value", [0, -3, math.nan, math.inf])
def test_expected_batch_size_must_be_finite_and_positive(value):
    with pytest.raises(ValueError, match=r"number.*got expected_batch_size="):
        aggregate(expected_batch_size=value)


@pytest.mark.parametrize("value", [0, -0.1, 1.0001, math.nan, math.inf])
def test_sampling_prob_must_be_a_probability_above_zero(value):
    with pytest.raises(ValueError, match=r"number.*got sampling_prob="):
        aggregate(expected_batch_size=3, sampling_prob=value)


@pytest.mark.parametrize("value", [True, "1", object()])
@pytest.mark.parametrize(
    "name", ["noise_multiplier", "expected_batch_size", "sampling_prob"]
)
def test_settings_must_be_numbers(name, value):
    options = {"expected_batch_size": 3} | {name: value}
    with pytest.raises(TypeError, match=f"Expected a real number, got {name}="):
        aggregate(**options)


@pytest.mark.parametrize("value", [jnp.array([1.0]), jnp.float32(math.nan)], ids=str)
@pytest.mark.parametrize(
    "name",
    ["l2_norm_clip", "noise_multiplier", "expected_batch_size", "sampling_prob"],
)
def test_settings_that_are_arrays_are_checked_too(name, value):
    options = {"expected_batch_size": 3} | {name: value}
    with pytest.raises(ValueError, match=f"got {name}"):
        aggregate(**options)


def test_settings_that_are_traced_must_be_real():
    with pytest.raises(TypeError, match=r"noise_multiplier\.dtype='complex64'"):
        jax.eval_shape(lambda z: aggregate(1.0, z).init(PARAMS), jnp.complex64(1))


def test_rounded_sampling_prob_is_refused():
    with pytest.raises(TypeError, match="hyperparam_dtype"):
        aggregate(expected_batch_size=3, sampling_prob=jnp.bfloat16(0.3))


@pytest.mark.parametrize("key", [-1, 2**64, jnp.zeros((2, 2), jnp.uint32)], ids=str)
def test_keys_out_of_range_are_refused(key):
    with pytest.raises(ValueError, match="got key"):
        aggregate(key=key).init(PARAMS)


@pytest.mark.parametrize("key", [0.5, "seed", True, jnp.zeros(2)], ids=str)
def test_keys_of_other_kinds_are_refused(key):
    with pytest.raises(TypeError, match="got key"):
        aggregate(key=key).init(PARAMS)


@pytest.mark.parametrize(
    ("updates", "error", "message"),
    [
        ({"w": jnp.ones((7, 5, 2)), "b": jnp.ones((7, 3))}, ValueError, r"\(5, 3\)"),
        ({"w": jnp.ones((5, 3)), "b": jnp.ones(5)}, ValueError, "without their batch"),
        ({"w": GRADS["w"], "b": jnp.ones((6, 3))}, ValueError, "share the length"),
        ({"w": GRADS["w"]}, ValueError, "Expected the structure"),
        ({"w": GRADS["w"], "b": jnp.float32(1)}, ValueError, "leading batch axis"),
        ({"w": GRADS["w"], "b": jnp.ones((7, 3), int)}, TypeError, "floating-point"),
        ({}, ValueError, "at least one array"),
    ],
    ids=["shape", "no batch axis", "axes", "structure", "scalar", "integer", "empty"],
)
def test_gradients_that_do_not_fit_are_refused(updates, error, message):
    with pytest.raises(error, match=message):
        step(aggregate(expected_batch_size=7), updates)


def test_clipped_grads_of_other_params_are_refused():
    grads = clipping.clipped_grad(lambda w, x: jnp.vdot(w, x), 1.0)
    with pytest.raises(ValueError, match=r"Expected shape \(2,\)"):
        step(aggregate(), grads(jnp.zeros(3), jnp.ones((4, 3))), jnp.zeros(2))
    with pytest.raises(ValueError, match="Expected the structure"):
        step(aggregate(), grads(jnp.zeros(3), jnp.ones((4, 3))))


@pytest.mark.parametrize(
    ("params", "error"),
    [({}, ValueError), (jnp.arange(3), TypeError), ({"a": None}, ValueError)],
    ids=["empty", "integer", "None"],
)
def test_params_that_cannot_be_trained_are_refused(params, error):
    with pytest.raises(error, match="Expected"):
        aggregate().init(params)


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        (jnp.ones(3, bool), ValueError),
        (jnp.ones((7, 1), bool), ValueError),
        (jnp.ones(7), TypeError),
    ],
    ids=["length", "rank", "dtype"],
)
def test_masks_that_do_not_fit_are_refused(mask, error):
    private = aggregate(expected_batch_size=7)
    with pytest.raises(error, match=r"got mask\."):
        step(private, GRADS, mask=mask)
    with pytest.raises(error, match=r"got mask\."):
        step(private, None, loss_fn=loss_fn, batch=examples(), mask=mask)


def test_calls_that_contradict_themselves_are_refused():
    private = aggregate(expected_batch_size=7)
    batch = examples()
    refused = functools.partial(pytest.raises, ValueError)
    with refused(match="loss_fn= and batch="):
        step(private, None)
    with refused(match="loss_fn= and batch="):
        step(private, GRADS, batch=batch)
    with refused(match=r"loss_fn=\.\.\., batch=\.\.\."):
        step(private, GRADS, loss_fn=loss_fn, batch=batch)
    with refused(match=r"loss_fn=\.\.\., batch=\.\.\."):
        step(private, None, loss_fn=loss_fn)
    with refused(match="params=NoneType"):
        step(private, None, None, loss_fn=loss_fn, batch=batch)
    grads = CLIPPED_GRAD(PARAMS, *batch)
    with refused(match="mask where the gradients were clipped"):
        step(private, grads, mask=HALF)


def test_clip_norms_that_are_no_prefix_of_the_params_are_refused():
    with pytest.raises(ValueError, match="prefix"):
        step(aggregate({"w": 1.0}), GRADS)


def test_loss_that_is_not_scalar_is_refused():
    with pytest.raises(ValueError, match="scalar"):
        step(aggregate(), None, loss_fn=lambda p, x: x @ p["w"], batch=examples()[0])


# The same form without privacy.


def test_average_gradients_divides_the_sum_and_nothing_else():
    grads = clipping.summed_grad(loss_fn)(PARAMS, *examples())
    plain = average_gradients(10)
    update, state = plain.update(grads, plain.init(PARAMS), PARAMS)
    expected = jax.tree.map(lambda g: g.sum(axis=0) / 10, GRADS)
    chex.assert_trees_all_close(update, expected, rtol=1e-5, atol=1e-6)
    assert state == optax.EmptyState()


def test_average_gradients_takes_clipped_grads_alone():
    with pytest.raises(TypeError, match="Expected a ClippedGrads"):
        average_gradients(10).update(GRADS, optax.EmptyState(), PARAMS)
    with pytest.raises(ValueError, match="expected_batch_size"):
        average_gradients(0)


def test_noise_stream_is_the_one_of_the_noise_module():
    private = aggregate(0.5, 1.0, 3, expected_batch_size=1)
    zeros = jax.tree.map(jnp.zeros_like, GRADS)
    expected = noise.gaussian_noise(noise.key_data(3), 0, PARAMS, 0.5)
    chex.assert_trees_all_close(step(private, zeros), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("max_copies", "error", "message"),
    [
        (0, ValueError, "max_copies=0"),
        (1.5, TypeError, "max_copies=1.5"),
        (2, ValueError, "1 with sampling_prob, got max_copies=2"),
    ],
)
def test_copies_of_an_example_are_a_number_and_not_poisson_sampled(
    max_copies, error, message
):
    options = {"expected_batch_size": 4, "sampling_prob": 0.1}
    with pytest.raises(error, match=message):
        differentially_private_aggregate(1.0, 1.0, 3, max_copies=max_copies, **options)


def test_a_state_of_numpy_arrays_goes_on_where_it_was():
    noisy = aggregate(noise_multiplier=1.0, key=3)
    grads = CLIPPED_GRAD(PARAMS, *examples())
    state = noisy.init(PARAMS)
    expected = noisy.update(grads, state, PARAMS)
    chex.assert_trees_all_equal(
        noisy.update(grads, jax.device_get(state), PARAMS), expected
    )


def test_no_rank_is_promoted():
    grads = CLIPPED_GRAD(PARAMS, *examples())
    with jax.numpy_rank_promotion("raise"):
        step(aggregate(noise_multiplier=1.0), grads)
