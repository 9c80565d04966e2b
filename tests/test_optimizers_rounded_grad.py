import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from released import BATCH_SIZE, PARAMS, examples, flat, loss_fn

from dpjax import clipping
from dpjax.clipping import rules
from dpjax.optimizers.grid import rounded_sensitivity
from dpjax.optimizers.rounded_grad import rounded_grad

CLIP = 0.7
STEP = 2.0**-12
HALVES = (slice(0, 3), slice(3, None))
HOSTILE = {"nan": np.nan, "inf": np.inf, "large": 1e30, "tiny": 1e-38, "zero": 0.0}


@functools.cache
def summed(step=STEP, **options):
    """Return the function of all tests that need no other: compiled once."""
    return rounded_grad(loss_fn, CLIP, step, **options)


def one_by_one(batch, rule=CLIP, step=STEP):
    """Return the integers of each example: (batch, d) in float64."""
    one = clipping.clipped_grad(loss_fn, rule, engine="vmap")
    masks = np.eye(len(batch[0]), dtype=bool)
    rows = [flat(one(PARAMS, *batch, mask=mask).sum) for mask in masks]
    return np.rint(np.stack(rows) / step)


@pytest.mark.parametrize(
    "rule",
    [
        CLIP,
        {"w": 0.3, "b": 0.4},
        pytest.param(rules.PerLayer(CLIP), marks=pytest.mark.slow),
        pytest.param(rules.Automatic(CLIP), marks=pytest.mark.slow),
        pytest.param(rules.PerSampleAdaptive(CLIP), marks=pytest.mark.slow),
    ],
    ids=["norm", "groups", "per layer", "automatic", "per-sample adaptive"],
)
def test_it_is_the_sum_of_rounded_clipped_gradients_exactly(rule):
    batch = examples()
    grads = rounded_grad(loss_fn, rule, STEP)(PARAMS, *batch)
    expected = one_by_one(batch, rule).sum(axis=0)
    np.testing.assert_array_equal(flat(grads.sum) / STEP, expected)
    assert grads.sensitivity == rules.as_rule(rule).sensitivity
    assert grads.batch_size == BATCH_SIZE


def test_order_and_pieces_change_nothing():
    batch = examples()
    whole = summed()
    expected = whole(PARAMS, *batch).sum
    backwards = [leaf[::-1] for leaf in batch]
    parts = [whole(PARAMS, *[leaf[part] for leaf in batch]) for part in HALVES]
    for other in (
        whole(PARAMS, *backwards),
        summed(microbatch_size=3)(PARAMS, *batch),
        jax.jit(whole)(PARAMS, *batch),
        parts[0] + parts[1],
    ):
        chex.assert_trees_all_equal(other.sum, expected)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("step", [STEP, 0.25])
def test_one_example_moves_the_integers_by_the_sensitivity_with_its_rounding(
    name, step
):
    x, y = examples()
    x = x.at[2].set(HOSTILE[name])
    fn = summed(step)
    stated = rounded_sensitivity(CLIP, step, 18, moved=0.5)
    everyone = jnp.ones(BATCH_SIZE, bool)
    with_it = flat(fn(PARAMS, x, y, mask=everyone).sum)
    removed = flat(fn(PARAMS, x, y, mask=everyone.at[2].set(False)).sum)
    replaced = flat(fn(PARAMS, x.at[2].set(3.0), y, mask=everyone).sum)
    assert np.linalg.norm(with_it - removed) / step <= stated
    assert np.linalg.norm(replaced - removed) / step <= stated
    assert np.linalg.norm(replaced - with_it) / step <= 2 * stated
    if name in ("nan", "inf"):
        np.testing.assert_array_equal(with_it, removed)


def test_what_is_not_finite_moves_no_other_examples_gradient_by_a_bit():
    # XLA mixes groups of one convolution: examples are then taken one by one.
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 1, 8)), jnp.float32)
    x = jnp.asarray(rng.normal(size=(16, 7, 7, 4)), jnp.float32)

    def depthwise(kernel, x):
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x[None], kernel, (1, 1), "SAME", None, None, layout, feature_group_count=4
        )
        return jnp.tanh(y).mean() * 10

    fn = rounded_grad(depthwise, CLIP, 2.0**-19)
    everyone = jnp.ones(16, bool)
    hostile = fn(kernel, x.at[3].set(jnp.nan), mask=everyone).sum
    without = fn(kernel, x, mask=everyone.at[3].set(False)).sum
    np.testing.assert_array_equal(hostile, without)


def test_raw_quantities_are_those_of_clipped_grad():
    batch = examples()
    mask = jnp.arange(BATCH_SIZE) < 4
    ours = summed(microbatch_size=3)
    plain = clipping.clipped_grad(loss_fn, CLIP)
    found = ours(PARAMS, *batch, mask=mask)
    expected = plain(PARAMS, *batch, mask=mask)
    chex.assert_trees_all_close(found.per_example, expected.per_example, rtol=1e-5)
    chex.assert_trees_all_close(found.sum, expected.sum, atol=BATCH_SIZE * STEP)
    assert found.batch_size is None


def test_batches_of_one_and_auxiliary_results_pass_through():
    def batched(params, x, y):
        assert x.shape == (1, 5)
        return loss_fn(params, x[0], y[0]), y[0]

    batch = examples()
    fn = rounded_grad(batched, CLIP, STEP, keep_batch_dim=True, has_aux=True)
    grads = fn(PARAMS, *batch)
    chex.assert_trees_all_equal(grads.sum, summed()(PARAMS, *batch).sum)
    np.testing.assert_array_equal(grads.per_example.aux, batch[1])


def test_each_example_has_a_key_of_its_own():
    def drawn(params, x, key):
        noise = jax.random.normal(key, (2,))
        return jnp.vdot(params, noise) + 0 * x

    fn = rounded_grad(drawn, 10.0, STEP, prng_argnum=2, microbatch_size=3)
    grads = fn(jnp.zeros(2), jnp.zeros(8), jax.random.key(3))
    norms = np.asarray(grads.per_example.grad_norm)
    assert len(set(norms.tolist())) == 8
    again = fn(jnp.zeros(2), jnp.zeros(8), jax.random.key(3))
    chex.assert_trees_all_equal(again.sum, grads.sum)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": 0.3}, "power of two"),
        ({"engine": "bookkeeping"}, "engine"),
        ({"microbatch_size": 0}, "microbatch_size"),
        ({"prng_argnum": 0}, "prng_argnum"),
        ({"l2_norm_clip": 0.0}, "l2_norm_clip"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        rounded_grad(loss_fn, **{"l2_norm_clip": CLIP, "granularity": STEP} | options)
