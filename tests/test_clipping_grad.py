"""`clipped_grad`: options, results, and invariant 7 (nothing but memory changes)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

import dpjax
from dpjax import clipping

PARAMS = {"w": jnp.array([[0.5, -1.0], [2.0, 0.1], [1.0, 1.0]]), "b": jnp.zeros(2)}


def loss(params, x, y):
    return jnp.sum((x @ params["w"] + params["b"] - y) ** 2)


def make_batch(batch_size):
    x = jax.random.normal(jax.random.key(0), (batch_size, 3))
    return x, jax.random.normal(jax.random.key(1), (batch_size, 2))


def by_hand(params, x, y, clip, mask=None):
    """The formula, example by example, in NumPy."""
    total = jax.tree.map(lambda p: np.zeros(p.shape), params)
    for i in range(len(x)):
        grad = jax.grad(loss)(params, x[i], y[i])
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grad)))
        keep = 1 if mask is None or mask[i] else 0
        factor = keep * min(1.0, clip / norm)
        total = jax.tree.map(lambda t, g: t + factor * np.asarray(g), total, grad)
    return total


def assert_close(a, b, rtol=2e-6, atol=1e-6):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b
    )


@pytest.mark.parametrize("clip", [0.01, 1.0, 1e6])
def test_the_sum_is_that_of_the_formula(clip):
    x, y = make_batch(7)
    grads = dpjax.clipped_grad(loss, clip)(PARAMS, x, y)
    assert_close(grads.sum, by_hand(PARAMS, x, y, clip))
    assert grads.sensitivity == clip
    assert grads.batch_size == 7


def test_per_example_quantities_are_raw_and_in_order():
    x, y = make_batch(4)
    per_example = dpjax.clipped_grad(loss, 0.1)(PARAMS, x, y).per_example
    losses = [float(loss(PARAMS, *pair)) for pair in zip(x, y, strict=True)]
    np.testing.assert_allclose(per_example.loss, losses, rtol=1e-6)
    norms = [
        optax.tree.norm(jax.grad(loss)(PARAMS, *pair))
        for pair in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(per_example.grad_norm, norms, rtol=1e-6)
    assert per_example.aux is None


@functools.cache
def compiled(microbatch_size):
    return dpjax.clipped_grad(loss, 0.5, microbatch_size=microbatch_size)


@settings(max_examples=30, deadline=None)
@given(
    batch_size=st.sampled_from([1, 4, 7]),
    microbatch_size=st.sampled_from([1, 3, 4, 9]),
    mask_bits=st.integers(0, 2**7 - 1),
)
def test_microbatches_and_masks_change_memory_only(
    batch_size, microbatch_size, mask_bits
):
    x, y = make_batch(batch_size)
    mask = jnp.array([bool(mask_bits >> i & 1) for i in range(batch_size)])
    whole = compiled(None)(PARAMS, x, y, mask=mask)
    pieces = compiled(microbatch_size)(PARAMS, x, y, mask=mask)
    alone = [compiled(None)(PARAMS, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    kept = [grads.sum for grads, keep in zip(alone, mask, strict=True) if keep]
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    assert_close(whole.sum, pieces.sum)
    assert_close(whole.sum, jax.tree.map(lambda *g: sum(g), zero, *kept))
    assert_close(whole.per_example, pieces.per_example)
    assert whole.batch_size is None


def test_padding_rows_may_hold_anything():
    x, y = make_batch(4)
    padded_x = jnp.concatenate([x, jnp.full((2, 3), jnp.nan)])
    padded_y = jnp.concatenate([y, jnp.full((2, 2), jnp.inf)])
    mask = jnp.arange(6) < 4
    fn = dpjax.clipped_grad(loss, 0.5)
    assert_close(fn(PARAMS, x, y).sum, fn(PARAMS, padded_x, padded_y, mask=mask).sum)


@pytest.mark.parametrize("microbatch_size", [None, 2])
def test_an_empty_batch_gives_zero(microbatch_size):
    x, y = make_batch(3)
    fn = dpjax.clipped_grad(loss, 0.5, microbatch_size=microbatch_size)
    for grads in (fn(PARAMS, x[:0], y[:0]), fn(PARAMS, x, y, mask=jnp.zeros(3, bool))):
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(grads.sum))
    assert fn(PARAMS, x[:0], y[:0]).per_example.loss.shape == (0,)


def test_grads_of_disjoint_examples_add_up():
    x, y = make_batch(5)
    fn = dpjax.clipped_grad(loss, 0.5)
    parts = fn(PARAMS, x[:2], y[:2]) + fn(PARAMS, x[2:], y[2:])
    whole = fn(PARAMS, x, y)
    assert_close(parts.sum, whole.sum)
    assert_close(parts.per_example, whole.per_example)
    assert parts.sensitivity == 0.5
    assert parts.batch_size == 5


def test_addition_keeps_the_larger_sensitivity_and_forgets_masked_sizes():
    x, y = make_batch(4)
    a = dpjax.clipped_grad(loss, 0.5)(PARAMS, x, y)
    b = dpjax.clipped_grad(loss, 2.0)(PARAMS, x, y, mask=jnp.ones(4, bool))
    total = a + b.without_per_example()
    assert total.sensitivity == 2.0
    assert total.batch_size is None
    assert total.per_example is None
    traced = dpjax.clipped_grad(loss, jnp.float32(3.0))(PARAMS, x, y)
    assert float((a + traced).sensitivity) == 3.0
    with pytest.raises(TypeError):
        a + 1


def test_clipped_grads_pass_through_jit_scan_and_tree_map():
    x, y = make_batch(6)
    fn = dpjax.clipped_grad(loss, 0.5)

    @jax.jit
    def total(x, y):
        pairs = (x.reshape(3, 2, -1), y.reshape(3, 2, -1))
        first = jax.tree.map(jnp.zeros_like, fn(PARAMS, x[:2], y[:2]))

        def step(carry, pair):
            grads = fn(PARAMS, *pair).without_per_example()
            return carry + grads, None

        summed, _ = jax.lax.scan(step, first.without_per_example(), pairs)
        return summed

    # Sizes are static, and a carry cannot count: only masked grads fit a scan.
    with pytest.raises(TypeError):
        total(x, y)
    grads = jax.jit(fn)(PARAMS, x, y)
    assert grads.sensitivity == 0.5
    doubled = jax.tree.map(lambda leaf: 2 * leaf, grads)
    assert_close(doubled.sum, jax.tree.map(lambda g: 2 * g, grads.sum))


def test_masked_grads_accumulate_in_a_scan():
    x, y = make_batch(6)
    fn = dpjax.clipped_grad(loss, 0.5)
    mask = jnp.ones(2, bool)

    @jax.jit
    def total(x, y):
        def step(carry, pair):
            return carry + fn(PARAMS, *pair, mask=mask).without_per_example(), None

        first = fn(PARAMS, x[:2], y[:2], mask=~mask).without_per_example()
        pairs = (x.reshape(3, 2, -1), y.reshape(3, 2, -1))
        return jax.lax.scan(step, first, pairs)[0]

    assert_close(total(x, y).sum, fn(PARAMS, x, y).sum)


def test_per_layer_clip_norms_clip_each_group_by_itself():
    x, y = make_batch(5)
    clip = {"w": 0.3, "b": 0.4}
    grads = dpjax.clipped_grad(loss, clip)(PARAMS, x, y)
    assert grads.sensitivity == pytest.approx(0.5, rel=1e-15)
    raw = dpjax.per_example_grad(loss)(PARAMS, x, y)
    for name, leaf in raw.items():
        flat = np.asarray(leaf).reshape(5, -1)
        factor = np.minimum(1, clip[name] / np.linalg.norm(flat, axis=1))
        expected = (factor[:, None] * flat).sum(0).reshape(leaf.shape[1:])
        np.testing.assert_allclose(grads.sum[name], expected, rtol=2e-6, atol=1e-6)


def test_the_clip_norm_of_the_call_may_be_traced():
    x, y = make_batch(5)
    fn = dpjax.clipped_grad(loss, 100.0)
    grads = jax.jit(lambda clip: fn(PARAMS, x, y, l2_norm_clip=clip))(0.25)
    assert_close(grads.sum, by_hand(PARAMS, x, y, 0.25))
    assert float(grads.sensitivity) == 0.25
    traced = {"w": jnp.float32(3.0), "b": jnp.float32(4.0)}
    assert float(fn(PARAMS, x, y, l2_norm_clip=traced).sensitivity) == 5.0


def test_aux_comes_back_for_each_example():
    def with_aux(params, x, y):
        return loss(params, x, y), {"prediction": x @ params["w"]}

    x, y = make_batch(5)
    for size in (None, 2):
        fn = dpjax.clipped_grad(with_aux, 1.0, has_aux=True, microbatch_size=size)
        aux = fn(PARAMS, x, y).per_example.aux
        np.testing.assert_allclose(aux["prediction"], x @ PARAMS["w"], rtol=1e-5)


def test_a_batched_loss_is_reused_with_keep_batch_dim():
    def batched(params, x, y):
        return jnp.mean(jnp.sum((x @ params["w"] + params["b"] - y) ** 2, axis=1))

    x, y = make_batch(5)
    grads = dpjax.clipped_grad(batched, 0.5, keep_batch_dim=True)(PARAMS, x, y)
    assert_close(grads.sum, by_hand(PARAMS, x, y, 0.5))


def test_every_example_gets_a_key_of_its_own_that_no_option_changes():
    def noisy(params, key, x):
        return jnp.vdot(params, x * jax.random.bernoulli(key, 0.5, x.shape))

    x, params = jnp.ones((6, 20)), jnp.ones(20)
    key = jax.random.key(5)
    whole = dpjax.clipped_grad(noisy, 1e6, prng_argnum=1)(params, key, x)
    pieces = dpjax.clipped_grad(noisy, 1e6, prng_argnum=1, microbatch_size=4)(
        params, key, x
    )
    padded = dpjax.clipped_grad(noisy, 1e6, prng_argnum=1)(
        params, key, jnp.ones((8, 20)), mask=jnp.arange(8) < 6
    )
    np.testing.assert_array_equal(whole.per_example.loss, pieces.per_example.loss)
    np.testing.assert_array_equal(whole.sum, padded.sum)
    assert len(np.unique(whole.per_example.loss)) > 2


def test_arguments_take_their_roles_by_position():
    def scaled(x, params, scale, mode, extra):
        assert mode == "double"
        return 2 * scale * jnp.vdot(params, x) * extra["gain"]

    x = jnp.arange(6.0).reshape(3, 2)
    fn = dpjax.clipped_grad(scaled, 1e6, argnums=1, batch_argnums=0)
    grads = fn(x, jnp.ones(2), 3.0, "double", {"gain": jnp.float32(0.5)})
    np.testing.assert_allclose(grads.sum, 3 * x.sum(0), rtol=1e-5)


def test_several_parameter_arguments_are_clipped_together():
    def two(a, b, x):
        return jnp.vdot(a, x) + jnp.vdot(b, x)

    x = jnp.array([[3.0, 4.0]])
    fn = dpjax.clipped_grad(two, 1.0, argnums=(0, 1))
    grads = fn(jnp.zeros(2), jnp.zeros(2), x)
    total = np.concatenate(grads.sum)
    np.testing.assert_allclose(np.linalg.norm(total), 1.0, rtol=2e-6)


def test_the_loss_is_traced_once_for_all_calls_of_one_shape():
    traces = []

    def counted(params, x, y):
        traces.append(None)
        return loss(params, x, y)

    fn = dpjax.clipped_grad(counted, 0.5)
    for seed in range(3):
        x = jax.random.normal(jax.random.key(seed), (4, 3))
        fn(PARAMS, x, jnp.zeros((4, 2)))
    assert len(traces) == 1


def test_a_flax_model_gives_the_gradients_of_the_loop():
    model = nn.Sequential([nn.Conv(4, (3, 3)), nn.GroupNorm(2), nn.tanh, nn.Dense(2)])
    images = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
    params = model.init(jax.random.key(1), images)

    def image_loss(params, image):
        return jnp.mean(jnp.square(model.apply(params, image[None])))

    grads = dpjax.clipped_grad(image_loss, 1e6)(params, images)
    looped = [jax.jit(jax.grad(image_loss))(params, image) for image in images]
    assert_close(grads.sum, jax.tree.map(lambda *g: sum(g), *looped), 1e-4, 1e-6)


def test_the_unclipped_sum_is_the_ordinary_gradient():
    x, y = make_batch(6)
    mask = jnp.arange(6) < 4
    for microbatch_size in (None, 4):
        fn = clipping.summed_grad(loss, microbatch_size=microbatch_size)
        grads = fn(PARAMS, x, y, mask=mask)
        assert_close(grads.sum, by_hand(PARAMS, x[:4], y[:4], np.inf), 1e-5)
        assert grads.sensitivity == np.inf
        assert grads.per_example.grad_norm is None


BAD_SETTINGS = {
    "zero clip": (dict(l2_norm_clip=0.0), ValueError, "> 0"),
    "negative clip": (dict(l2_norm_clip=-1.0), ValueError, "> 0"),
    "nan clip": (dict(l2_norm_clip=float("nan")), ValueError, "finite"),
    "infinite clip": (dict(l2_norm_clip=float("inf")), ValueError, "finite"),
    "clip not a number": (dict(l2_norm_clip="one"), TypeError, "real number"),
    "boolean clip": (dict(l2_norm_clip=True), TypeError, "real number"),
    "no clip": (dict(l2_norm_clip=None), TypeError, "real number"),
    "empty clip": (dict(l2_norm_clip={}), ValueError, "at least one clip norm"),
    "clip not scalar": (dict(l2_norm_clip=jnp.ones(2)), ValueError, "scalar"),
    "zero microbatch": (dict(microbatch_size=0), ValueError, ">= 1"),
    "fractional microbatch": (dict(microbatch_size=2.5), TypeError, "integer"),
    "unknown engine": (
        dict(engine="magic"),
        ValueError,
        "'auto', 'bookkeeping', 'vmap'",
    ),
    "overlap": (dict(argnums=0, batch_argnums=(0, 1)), ValueError, "outside argnums"),
    "key is params": (dict(prng_argnum=0), ValueError, "not in"),
    "negative argnum": (dict(argnums=-1), ValueError, ">= 0"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_settings_are_refused_with_what_was_expected(case):
    kwargs, error, words = BAD_SETTINGS[case]
    kwargs = {"l2_norm_clip": 1.0} | kwargs
    with pytest.raises(error, match=words):
        dpjax.clipped_grad(loss, **kwargs)


X, Y = make_batch(4)
BAD_CALLS = {
    "axes differ": ((PARAMS, X, Y[:3]), {}, ValueError, "leading batch axis"),
    "scalar batch": ((PARAMS, jnp.float32(1), Y), {}, ValueError, "leading batch axis"),
    "empty params": (({}, X, Y), {}, ValueError, "at least one array"),
    "integer params": (
        ({"w": jnp.ones((3, 2), int), "b": jnp.zeros(2)}, X, Y),
        {},
        TypeError,
        "floating-point",
    ),
    "no batch": ((PARAMS,), {}, ValueError, "at least one array"),
    "mask shape": ((PARAMS, X, Y), {"mask": jnp.ones(3, bool)}, ValueError, "mask"),
    "mask dtype": ((PARAMS, X, Y), {"mask": jnp.ones(4)}, TypeError, "booleans"),
    "clip tree": (
        (PARAMS, X, Y),
        {"l2_norm_clip": {"w": 1.0, "c": 1.0}},
        ValueError,
        "prefix",
    ),
    "unknown option": ((PARAMS, X, Y), {"maks": None}, TypeError, "maks"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_are_refused_with_what_came(case):
    args, kwargs, error, words = BAD_CALLS[case]
    with pytest.raises(error, match=words):
        dpjax.clipped_grad(loss, 1.0)(*args, **kwargs)


@pytest.mark.parametrize(
    ("bad_loss", "error"),
    [
        (lambda p, x, y: x @ p["w"], ValueError),
        (lambda p, x, y: jnp.sum(x @ p["w"])[None], ValueError),
        (lambda p, x, y: jnp.int32(3), TypeError),
        (lambda p, x, y: jnp.sum(x @ p["w"]) * 1j, TypeError),
    ],
)
def test_a_loss_that_is_not_a_real_scalar_is_refused(bad_loss, error):
    with pytest.raises(error, match="Expected"):
        dpjax.clipped_grad(bad_loss, 1.0)(PARAMS, X, Y)


@pytest.mark.parametrize("microbatch_size", [None, 3])
def test_a_batch_sharded_over_two_devices_gives_the_same(microbatch_size):
    x, y = make_batch(6)
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((2,), ("data",), axis_types=auto)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    fn = jax.jit(dpjax.clipped_grad(loss, 0.5, microbatch_size=microbatch_size))
    sharded = fn(
        jax.device_put(PARAMS, everywhere),
        *jax.device_put((x, y), rows),
        mask=jax.device_put(jnp.ones(6, bool), rows),
    )
    assert_close(sharded.sum, fn(PARAMS, x, y).sum)
