"""Invariants 1, 3 and 5: what one example can do to the clipped sum, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpjax import clipping
from dpjax.clipping import rules

ENGINES = ["vmap"]
CLIP = 0.7

HOSTILE = {
    "ordinary": 3.0,
    "nan": np.nan,
    "inf": np.inf,
    "minus_inf": -np.inf,
    "huge": 1e30,
    "largest": np.finfo(np.float32).max,
    "fp16_tiny": 6e-8,
    "subnormal": 1e-41,
    "zero": 0.0,
}


def loss(params, x, y):
    hidden = jnp.tanh(x @ params["dense"]["w"] + params["dense"]["b"])
    return jnp.sum((hidden @ params["out"] - y) ** 2) * params["scale"]


def make_params(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(3), 2)
    params = {
        "dense": {"w": jax.random.normal(keys[0], (4, 5)), "b": jnp.zeros(5)},
        "out": jax.random.normal(keys[1], (5, 2)),
        "scale": jnp.float32(1.5),
    }
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def make_batch(batch_size, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(4), 2)
    x = jax.random.normal(keys[0], (batch_size, 4), dtype)
    return x, 5 * jax.random.normal(keys[1], (batch_size, 2), dtype)


def norm64(tree):
    leaves = [np.asarray(leaf, np.complex128).ravel() for leaf in jax.tree.leaves(tree)]
    return np.linalg.norm(np.concatenate(leaves))


def difference(a, b):
    return norm64(
        jax.tree.map(
            lambda x, y: np.asarray(x, np.float64) - np.asarray(y, np.float64), a, b
        )
    )


def slack(total, batch_size):
    return 4 * batch_size * 2.0**-24 * max(norm64(total), 1e-30)


CLIPS = {
    "global": CLIP,
    "per_layer": {"dense": 0.3, "out": 0.5, "scale": 0.2},
    "per_leaf": {"dense": {"w": 0.3, "b": 0.1}, "out": 0.5, "scale": 0.2},
    "automatic": rules.Automatic(CLIP),
    "normalised": rules.Automatic(CLIP, stability=0.0),
    "adaptive": rules.PerSampleAdaptive(CLIP),
    "layers": rules.PerLayer(CLIP, by="dimension"),
}


@functools.cache
def compiled(clip, engine, microbatch_size):
    """One function a configuration, so that it compiles once for all examples."""
    return clipping.clipped_grad(
        loss, CLIPS[clip], engine=engine, microbatch_size=microbatch_size
    )


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize(
    ("clip", "dtype", "microbatch_size"),
    [
        ("global", "float32", None),
        ("per_layer", "float32", 3),
        ("per_leaf", "bfloat16", None),
        ("global", "float16", 4),
        ("automatic", "float32", 3),
        ("normalised", "float16", None),
        ("adaptive", "bfloat16", None),
        ("layers", "float32", 3),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_adding_removing_or_replacing_one_example_moves_the_sum_by_the_sensitivity(
    engine, clip, dtype, microbatch_size, hostile
):
    params, (x, y) = make_params(dtype), make_batch(8, dtype)
    with np.errstate(over="ignore"):
        extreme = jnp.full(2, HOSTILE[hostile]).astype(dtype)
    y = y.at[0].set(extreme)
    fn = compiled(clip, engine, microbatch_size)
    everyone = jnp.ones(8, bool)
    with_it = fn(params, x, y, mask=everyone)
    without = fn(params, x, y, mask=everyone.at[0].set(False))
    replaced = fn(params, x.at[0].set(-x[0]), y.at[0].set(0), mask=everyone)
    assert np.isfinite(norm64(with_it.sum))
    bound, rounding = with_it.sensitivity, slack(with_it.sum, 8)
    assert difference(with_it.sum, without.sum) <= bound + rounding
    assert difference(with_it.sum, replaced.sum) <= 2 * bound + rounding


@pytest.mark.parametrize("hostile", ["nan", "inf", "minus_inf"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_non_finite_example_contributes_exactly_zero(engine, hostile):
    params, (x, y) = make_params(), make_batch(5)
    fn = compiled("global", engine, None)
    poisoned = fn(params, x, y.at[2].set(HOSTILE[hostile]), mask=jnp.ones(5, bool))
    masked = fn(params, x, y, mask=jnp.arange(5) != 2)
    jax.tree.map(np.testing.assert_array_equal, poisoned.sum, masked.sum)
    assert not np.isfinite(poisoned.per_example.grad_norm[2])


@pytest.mark.parametrize("position", range(2))
def test_one_non_finite_entry_of_one_leaf_zeroes_the_whole_example(position):
    def two_leaves(params, x):
        return jnp.vdot(params["a"], x[:2]) + jnp.vdot(params["b"], x[2:])

    params = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    x = jnp.ones((2, 5)).at[1, 4 * position].set(jnp.nan)
    grads = clipping.clipped_grad(two_leaves, 100.0)(params, x)
    np.testing.assert_array_equal(grads.sum["a"], jnp.ones(2))
    np.testing.assert_array_equal(grads.sum["b"], jnp.ones(3))


def linear(params, gradient):
    return jnp.vdot(params, gradient)


clip_linear = clipping.clipped_grad(linear, 1.0)


def clipped_norms(gradients, clip):
    """Clip each row alone, so that the sum is that one clipped gradient."""
    params, clip = jnp.zeros(gradients.shape[1]), jnp.float32(clip)
    rows = jnp.asarray(gradients)
    return [
        norm64(clip_linear(params, row[None], l2_norm_clip=clip).sum) for row in rows
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 17, 1000, 65_537])
def test_a_clipped_gradient_never_exceeds_its_bound_not_even_by_rounding(size):
    generator = np.random.default_rng(0)
    rows = [
        generator.normal(size=size),
        np.full(size, 0.1),
        np.full(size, 1 / 3),
        generator.uniform(0.999, 1.001, size=size),
        np.exp(generator.normal(scale=8, size=size)),
        np.full(size, 3e37),
    ]
    for clip in (1.0, 0.1, 1e-3, 3.7e4):
        norms = clipped_norms(np.array(rows, np.float32), clip)
        assert max(norms) <= np.float32(clip)
        assert min(norms[:4]) >= min(clip, np.linalg.norm(rows[1])) * (1 - 1e-5)


def test_a_gradient_just_below_the_clip_norm_is_not_touched_and_just_above_is():
    rows = np.array([[0.6, 0.8], [0.6, 0.79]], np.float32)
    below = clipped_norms(rows[1:], 1.0)[0]
    assert below == norm64(rows[1])
    assert clipped_norms(rows[:1], 1.0)[0] <= 1.0


@pytest.mark.slow
def test_a_clipped_gradient_of_ten_million_entries_obeys_its_bound():
    rows = np.full((1, 10_000_000), 0.1, np.float32)
    assert clipped_norms(rows, 1.0)[0] <= 1.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("scale", [1e-7, 1e-4, 1.0, 1e4])
def test_norms_neither_underflow_nor_overflow_in_low_precision(dtype, scale):
    gradient = (scale * jnp.ones((1, 1000))).astype(dtype)
    fn = clipping.clipped_grad(linear, 1e-3 * scale)
    grads = fn(jnp.zeros(1000, dtype), gradient)
    expected = norm64(gradient)
    np.testing.assert_allclose(grads.per_example.grad_norm[0], expected, rtol=1e-5)
    assert grads.sum.dtype == jnp.float32
    assert norm64(grads.sum) <= 1e-3 * scale
    np.testing.assert_allclose(norm64(grads.sum), 1e-3 * scale, rtol=1e-5)


def test_float64_parameters_are_clipped_in_float64():
    with jax.enable_x64(True):
        params = make_params(jnp.float64)
        x, y = make_batch(6, jnp.float64)
        grads = clipping.clipped_grad(loss, CLIP)(params, x, y)
        per_example = jax.vmap(jax.grad(loss), (None, 0, 0))(params, x, y)
        norms = [norm64(jax.tree.map(lambda g: g[i], per_example)) for i in range(6)]
        expected = sum(
            min(1, CLIP / norms[i]) * np.asarray(per_example["out"][i])
            for i in range(6)
        )
        assert grads.sum["out"].dtype == jnp.float64
        np.testing.assert_allclose(grads.sum["out"], expected, rtol=1e-13)


def test_complex_parameters_are_clipped_by_their_modulus():
    def modulus(params, x):
        return jnp.abs(jnp.vdot(params, x)) ** 2

    params = jnp.array([1 + 2j, -1j, 0.5], jnp.complex64)
    x = (jnp.arange(12.0).reshape(4, 3) + 1j).astype(jnp.complex64)
    grads = clipping.clipped_grad(modulus, 0.2)(params, x)
    raw = jax.vmap(jax.grad(modulus), (None, 0))(params, x)
    norms = np.linalg.norm(np.asarray(raw), axis=1)
    expected = (np.minimum(1, 0.2 / norms)[:, None] * np.asarray(raw)).sum(0)
    np.testing.assert_allclose(grads.sum, expected, rtol=1e-5)
    np.testing.assert_allclose(grads.per_example.grad_norm, norms, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32"])
def test_a_clip_norm_of_low_precision_bounds_as_tightly(dtype):
    clip = jnp.asarray(3, dtype)
    grads = clip_linear(jnp.zeros(50), jnp.full((1, 50), 0.7), l2_norm_clip=clip)
    assert grads.sensitivity.dtype == jnp.float32
    assert norm64(grads.sum) <= float(clip)


@pytest.mark.parametrize("engine", ["vmap", "bookkeeping"])
@pytest.mark.parametrize("away", [1.0, 1e-2, 1e-4, 1e-6, 0.0])
def test_bounds_of_norms_are_above_what_is_added_where_positions_cancel(engine, away):
    def cancelling(w, x):
        return jnp.sum(x @ w) + 1e-3 * jnp.sum((x @ w) ** 2)

    generator = np.random.default_rng(0)
    w = generator.normal(size=(3, 4)).astype(np.float32)
    x = generator.normal(size=(50, 6, 3)).astype(np.float32)
    x[:, 3:] = -x[:, :3] + np.float32(away) * x[:, 3:]
    clipped = clipping.clipped_grad(cancelling, 1e9, engine=engine)
    found = clipped(w, x).per_example
    added = np.array([norm64(clipped(w, x[i : i + 1]).sum) for i in range(50)])
    assert np.all(np.asarray(found.grad_norm_bound, np.float64) >= added)
    assert np.all(found.grad_norm_bound >= found.grad_norm)
    np.testing.assert_allclose(found.grad_norm_bound, added, rtol=1e-4)
