"""The fast engine itself: what it costs, and what it does at the edges."""

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import dpjax
from dpjax.clipping import bookkeeping, rules
from dpjax.clipping.forms import convolution, formed

ENGINES = ["bookkeeping", "vmap"]


# Machine code of the same programs, not optimised: compiling it is what costs.
UNOPTIMISED = {"xla_backend_optimization_level": 0}


def jitted(loss, clip=1.0, engine="bookkeeping", **settings):
    fn = dpjax.clipped_grad(loss, clip, engine=engine, **settings)
    return jax.jit(fn, compiler_options=UNOPTIMISED)


def fast(loss, clip=1.0, **settings):
    return dpjax.clipped_grad(loss, clip, engine="bookkeeping", **settings)


def mlp(params, x):
    for i, layer in enumerate(params):
        x = x @ layer["w"] + layer["b"]
        x = jnp.tanh(x) if i + 1 < len(params) else x
    return jax.nn.logsumexp(x) - x[0]


def mlp_params(*widths):
    random = np.random.default_rng(0)
    return [
        {
            "w": jnp.asarray(random.normal(size=(n, m)) / math.sqrt(n), jnp.float32),
            "b": jnp.zeros(m),
        }
        for n, m in itertools.pairwise(widths)
    ]


def rows(batch_size, width):
    random = np.random.default_rng(1)
    return jnp.asarray(random.normal(size=(batch_size, width)), jnp.float32)


def assert_close(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), got, want)


# What it costs.


def gates(params, x):
    """A recurrent cell whose kernels are concatenated before they meet the data."""

    def step(h, x_t):
        kernels = (params[name] for name in ("i", "f", "g"))
        z = jnp.split(jnp.concatenate([h, x_t]) @ jnp.concatenate([*kernels], 1), 3)
        return jax.nn.sigmoid(z[0]) * h + jax.nn.sigmoid(z[1]) * jnp.tanh(z[2]), None

    return jnp.sum(lax.scan(step, jnp.zeros(7), x)[0])


def test_a_reshaped_kernel_of_a_cell_is_not_written_out():
    def loss(params, x):
        w = params["w"].reshape(8, 8)

        def step(h, x_t):
            return jnp.tanh(x_t @ w + h @ w), None

        return jnp.sum(lax.scan(step, jnp.zeros(8), x)[0])

    random = np.random.default_rng(0)
    params = {"w": jnp.asarray(random.normal(size=64), jnp.float32)}
    x = jnp.asarray(random.normal(size=(5, 3, 8)), jnp.float32)
    (row,) = dpjax.explain(loss, params, x).rows
    assert row.rule.startswith("Gram matrices")


def test_an_empty_batch_of_look_ups_in_a_large_table_gives_zero():
    grads = fast(lambda table, i: jnp.sum(jnp.tanh(table[i])))(
        jnp.ones((500, 3)), jnp.zeros((0, 2), int)
    )
    np.testing.assert_array_equal(grads.sum, np.zeros((500, 3)))


def test_kernels_that_meet_the_data_side_by_side_are_summed_by_one_product():
    random = np.random.default_rng(0)
    params = {k: jnp.asarray(random.normal(size=(12, 7)), jnp.float32) for k in "ifg"}
    x = jnp.asarray(random.normal(size=(11, 4, 5)), jnp.float32)
    per_leaf = {"f": 0.5, "g": 0.6, "i": 0.7}
    for clip, whole, parts in ((1.0, 1, 0), (per_leaf, 0, 3)):
        fn = dpjax.clipped_grad(gates, clip, engine="bookkeeping")
        text = jax.jit(fn).lower(params, x).as_text()
        # The sum of all kernels has 12 rows and 21 columns, that of one has 7.
        shapes = re.findall(r"dot_general .*-> tensor<(12x21|12x7)xf32>", text)
        assert (shapes.count("12x21"), shapes.count("12x7")) == (whole, parts)
        slow = dpjax.clipped_grad(gates, clip, engine="vmap")(params, x)
        assert_close(fn(params, x).sum, slow.sum)


def largest_arrays(loss, params, x, engine):
    """Return the numbers of elements of all arrays in the optimised program."""
    fn = jitted(loss, engine=engine)
    text = fn.lower(params, x).compile().as_text()
    shapes = {
        tuple(map(int, s.split(","))) for s in re.findall(r"f32\[([\d,]+)\]", text)
    }
    return {math.prod(shape) for shape in shapes}


def test_no_array_of_an_mlp_is_as_large_as_its_per_example_gradients():
    params, x = mlp_params(29, 37, 41, 5), rows(11, 29)
    sizes = {11 * leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim == 2}
    assert sizes <= largest_arrays(mlp, params, x, "vmap")
    found = largest_arrays(mlp, params, x, "bookkeeping")
    assert max(found) == 37 * 41


def test_no_array_of_a_table_is_as_large_as_its_per_example_gradients():
    def loss(params, ids):
        return jax.nn.logsumexp(jnp.tanh(params["table"][ids].mean(0)) @ params["w"])

    params = {"table": rows(97, 7), "w": rows(7, 5)}
    ids = jnp.arange(11 * 13).reshape(11, 13) % 97
    assert 11 * 97 * 7 in largest_arrays(loss, params, ids, "vmap")
    # The look-ups of the batch are 11 * 13 rows.
    found = largest_arrays(loss, params, ids, "bookkeeping")
    assert max(found) <= 11 * 13 * 13


def temporaries(params, x, engine):
    fn = jitted(mlp, engine=engine)
    return fn.lower(params, x).compile().memory_analysis().temp_size_in_bytes


def test_temporaries_of_an_mlp_are_a_small_part_of_those_of_vmap():
    params, x = mlp_params(200, 256, 256, 10), rows(64, 200)
    used, oracle = (temporaries(params, x, engine) for engine in ENGINES)
    gradients = 64 * 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
    assert oracle >= gradients
    assert used < gradients / 20


def test_a_loss_is_traced_a_fixed_number_of_times():
    traces = []

    def counted(params, x):
        traces.append(x.shape)
        return mlp(params, x)

    fn, params = jitted(counted), mlp_params(3, 4, 2)
    counts = []
    for batch_size in (2, 2, 64, 64):
        before = len(traces)
        fn(params, rows(batch_size, 3))
        counts.append(len(traces) - before)
    assert counts == [counts[0], 0, counts[0], 0]
    assert counts[0] <= 2


def test_the_body_of_a_scan_is_traced_a_fixed_number_of_times():
    traces = []

    def counted(w, x):
        def step(h, x_t):
            traces.append(x_t.shape)
            return jnp.tanh(h @ w + x_t), None

        return jnp.sum(lax.scan(step, jnp.zeros(3), x)[0])

    counts = []
    for length in (2, 50):
        traces.clear()
        jitted(counted)(jnp.eye(3), jnp.ones((4, length, 3)))
        counts.append(len(traces))
    assert counts[0] == counts[1] <= 4


# Where it runs.


@pytest.fixture(scope="module")
def case():
    params, x = mlp_params(3, 4, 2), rows(6, 3)
    return params, x, dpjax.clipped_grad(mlp, 0.5, engine="vmap")(params, x)


def test_it_gives_the_same_as_it_is_and_inside_of_jit(case):
    params, x, want = case
    assert_close(fast(mlp, 0.5)(params, x), want)
    assert_close(jitted(mlp, 0.5)(params, x), want)


def test_it_gives_the_same_inside_of_a_scan(case):
    params, x, want = case
    fn = fast(mlp, 0.5)

    def body(carry, scale):
        return carry, fn(jax.tree.map(lambda leaf: leaf * scale, carry), x)

    _, each = lax.scan(body, params, jnp.array([2.0, 1.0]))
    assert_close(jax.tree.map(lambda leaf: leaf[1], each.sum), want.sum)
    assert_close(each.per_example.grad_norm[1], want.per_example.grad_norm)


def test_it_gives_the_same_inside_of_vmap_over_parameters(case):
    params, x, want = case
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    each = jax.vmap(fast(mlp, 0.5), in_axes=(0, None))(stacked, x)
    assert_close(jax.tree.map(lambda leaf: leaf[0], each.sum), want.sum)


def test_it_gives_the_same_on_two_devices(case):
    params, x, want = case
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    by_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    sharded = jax.device_put(params, everywhere), jax.device_put(x, by_rows)
    got = jitted(mlp, 0.5)(*sharded)
    assert len(got.per_example.loss.sharding.device_set) == 2
    assert_close(got, want)


# Edges.


@pytest.mark.parametrize("microbatch_size", [None, 2])
def test_an_empty_batch_gives_zero(microbatch_size):
    params = mlp_params(3, 4, 2)
    grads = jitted(mlp, microbatch_size=microbatch_size)(params, jnp.zeros((0, 3)))
    assert_close(grads.sum, jax.tree.map(jnp.zeros_like, params))
    assert grads.per_example.grad_norm.shape == (0,)


def test_one_example_gives_its_clipped_gradient():
    params, x = mlp_params(3, 4, 2), rows(1, 3)
    grads = jitted(mlp, 0.25)(params, x)
    exact = jax.grad(mlp)(params, x[0])
    norm = math.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(exact)))
    assert norm > 0.25
    assert_close(grads.sum, jax.tree.map(lambda leaf: leaf * 0.25 / norm, exact))
    np.testing.assert_allclose(grads.per_example.grad_norm, [norm], rtol=1e-5)


def test_a_parameter_that_is_not_used_has_gradient_zero():
    def loss(params, x):
        return jnp.vdot(params["used"], x)

    params = {"used": jnp.ones(3), "unused": jnp.ones((2, 2), jnp.bfloat16)}
    x = rows(4, 3)
    grads = jitted(loss, 1e6)(params, x)
    np.testing.assert_allclose(grads.sum["used"], x.sum(0), rtol=1e-5)
    assert not grads.sum["unused"].any()
    assert grads.sum["unused"].dtype == jnp.float32
    norms = np.linalg.norm(x, axis=1)
    np.testing.assert_allclose(grads.per_example.grad_norm, norms, rtol=1e-6)


def test_a_loss_that_uses_no_parameter_has_gradient_zero():
    grads = jitted(lambda params, x: jnp.sum(x**2))({"w": jnp.ones(3)}, rows(4, 3))
    assert not grads.sum["w"].any()
    np.testing.assert_array_equal(grads.per_example.grad_norm, np.zeros(4))
    np.testing.assert_allclose(grads.per_example.loss, jnp.sum(rows(4, 3) ** 2, 1))


def test_a_loss_that_uses_no_example_has_the_same_gradient_for_all():
    grads = jitted(lambda w, x: jnp.sum(w**2), 1e6)(jnp.arange(3.0), rows(4, 3))
    np.testing.assert_allclose(grads.sum, 4 * 2 * jnp.arange(3.0), rtol=1e-6)
    norms = np.full(4, math.sqrt(20.0))
    np.testing.assert_allclose(grads.per_example.grad_norm, norms, rtol=1e-6)


LINEAR = {
    "bias": lambda w, x: jnp.vdot(w[0] + x[0], x[0]),
    "one_position": lambda w, x: jnp.vdot(x[0] @ w, jnp.ones(2)),
    "positions": lambda w, x: jnp.vdot(x @ w, jnp.ones((3, 2))),
    "table": lambda w, x: jnp.vdot(w[jnp.argmax(x, axis=1)], x),
}


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_number_at_the_ends_of_float32_obeys_the_clip_norm(name, engine):
    fn = jitted(LINEAR[name], 0.5, engine)
    for value in (1e38, 1.8e38, 3.4e38, 1e-37, 1e-38):
        grads = fn(jnp.ones((2, 2)), jnp.ones((1, 3, 2)).at[0, 0, 0].set(value))
        assert np.linalg.norm(np.asarray(grads.sum, float)) <= 0.5
        if value > 1:
            assert grads.per_example.grad_norm[0] >= value * (1 - 1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_a_gradient_that_is_not_finite_contributes_zero_in_every_dtype(dtype):
    # The root of |0| has no finite derivative, though the input is finite.
    def loss(params, x):
        y = x @ params["w"] + params["b"]
        return jnp.sum(jnp.sqrt(jnp.abs(y))).astype(jnp.float32)

    params = {"b": jnp.zeros(4, dtype), "w": jnp.ones((3, 4), dtype)}
    x = jnp.array([[1, 2, 3], [1, 1, -2]], dtype)
    for positions in (x, jnp.stack([x, x], 1)):
        both, one = (jitted(loss)(params, part) for part in (positions, positions[:1]))
        assert not np.isfinite(both.per_example.grad_norm[1])
        assert_close(both.sum, one.sum)


def convolutional(params, x):
    y = lax.conv(x.reshape(1, 1, 16, 16), params["k"], (2, 2), "SAME")
    return jnp.sum(jnp.tanh(y + params["b"][:, None, None]) ** 2)


# From 4096 numbers on XLA takes a library on CPUs, whose maximum overlooks NaN.
WIDE = {
    "dense": (mlp, mlp_params(256, 128, 10)),
    "convolution": (convolutional, {"k": jnp.ones((8, 1, 3, 3)), "b": jnp.ones(8)}),
}


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf, 1e30, -1e25, 1e-30])
@pytest.mark.parametrize("name", WIDE)
def test_a_hostile_number_in_a_wide_array_moves_the_sum_by_the_clip_norm(name, value):
    loss, params = WIDE[name]
    fn = jitted(loss, 0.5)
    x, mask = rows(32, 256).at[3, 7].set(value), jnp.arange(32) != 3
    both, others = fn(params, x), fn(params, x, mask=mask)
    moved = jax.tree.map(lambda a, b: np.asarray(a - b, float), both.sum, others.sum)
    length = math.hypot(*(np.linalg.norm(leaf) for leaf in jax.tree.leaves(moved)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(both.sum))
    assert length <= 0.5 * (1 + 1e-5)
    if not np.isfinite(value):
        assert_close(both.sum, others.sum)
    assert np.isfinite(both.per_example.grad_norm[3]) == np.isfinite(value)


def recurrent(params, x):
    def step(h, x):
        return jnp.tanh(x @ params["x"] + h @ params["h"]), None

    return jnp.sum(lax.scan(step, jnp.zeros(4), x.reshape(16, 16))[0])


SATURATED = WIDE | {
    "positions": (lambda w, x: jnp.sum(jnp.tanh(x.reshape(16, 16) @ w)), jnp.eye(16)),
    "steps": (recurrent, {"x": jnp.ones((16, 4)), "h": jnp.eye(4)}),
    "row": (lambda w, x: jnp.sum(jnp.tanh(x * w)), jnp.ones(256)),
}


@pytest.mark.parametrize("name", SATURATED)
@pytest.mark.parametrize("stability", [0.01, 0.0])
def test_a_factor_above_one_makes_no_number_infinite(name, stability):
    loss, params = SATURATED[name]
    fn = jitted(loss, rules.Automatic(10.0, stability))
    x, mask = rows(32, 256), jnp.arange(32) != 3
    for value in (1e20, 1e30, 1e36):
        hostile = x.at[3].set(value)
        both, others = fn(params, hostile).sum, fn(params, hostile, mask=mask).sum
        moved = jax.tree.map(lambda a, b: np.asarray(a - b, float), both, others)
        length = math.hypot(*(np.linalg.norm(leaf) for leaf in jax.tree.leaves(moved)))
        assert length <= 10 * (1 + 1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_example_that_is_not_finite_stays_alone_in_a_convolution_with_groups(engine):
    def loss(kernel, x, scale):
        y = lax.conv_general_dilated(
            x[None], kernel, (1, 1), "SAME", feature_group_count=2
        )
        return jnp.sum(jnp.tanh(y[0]) * scale)

    x, mask = rows(4, 4 * 14 * 14).reshape(4, 4, 14, 14), jnp.arange(4) != 2
    scale = jnp.ones((4, 8, 14, 14)).at[2, 0, 3, 3].set(jnp.nan)
    fn = jitted(loss, 1.0, engine, batch_argnums=(1, 2))
    grads = fn(jnp.full((8, 2, 3, 3), 0.1), x, scale)
    others = fn(jnp.full((8, 2, 3, 3), 0.1), x, scale, mask=mask)
    np.testing.assert_array_equal(np.isfinite(grads.per_example.grad_norm), mask)
    assert_close(grads.sum, others.sum)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_norm_over_many_leaves_that_are_nan_is_above_any_number(engine):
    x = rows(256, 3).at[3].set(jnp.nan)
    params = {f"w{i}": jnp.ones(3) for i in range(70)}
    fn = jitted(lambda params, x: sum(w @ x for w in params.values()), 1.0, engine)
    found = fn(params, x).per_example
    for norms in (found.grad_norm, found.grad_norm_bound):
        assert not norms[3] <= 1e38
        assert np.isfinite(np.delete(norms, 3)).all()


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_a_mark_on_either_side_of_a_weight_that_is_used_both_ways_is_seen(value):
    def loss(w, x, scale):
        return jnp.sum(jnp.tanh(x @ w) @ w.T * scale)

    x = rows(4, 64 * 28).reshape(4, 64, 28) * 3e-3
    scale = jnp.ones((4, 64, 28)).at[2, 5, 5].set(value)
    fn = jitted(loss, batch_argnums=(1, 2))
    grads = fn(jnp.eye(28), x, scale)
    others = fn(jnp.eye(28), x, scale, mask=jnp.arange(4) != 2)
    assert not np.isfinite(grads.per_example.grad_norm[2])
    assert_close(grads.sum, others.sum)


@pytest.mark.parametrize("side", [4, 10, 20])
def test_an_empty_batch_of_images_gives_zero_whichever_way_is_taken(side):
    def loss(kernel, x):
        return jnp.sum(lax.conv(x[None], kernel, (1, 1), "SAME") ** 2)

    grads = fast(loss)(jnp.ones((32, 32, 3, 3)), jnp.zeros((0, 32, side, side)))
    assert grads.sum.shape == (32, 32, 3, 3)
    assert not grads.sum.any()


def test_a_mark_in_float32_is_known_beside_a_leaf_in_float64():
    def loss(params, x):
        bad = jnp.sqrt((x @ params["w"])[0])
        return bad + (params["v"] @ jnp.stack([x[1], x[1]])).astype(jnp.float32)

    with jax.enable_x64(True):
        params = {"w": jnp.zeros((4, 1), jnp.float32), "v": jnp.ones(2, float)}
        x = jnp.full((2, 4), 10.0, jnp.float32)
        clip = {"w": 1.0, "v": 1.0}
        got = dpjax.clipped_grad(loss, clip, engine="bookkeeping")(params, x)
        assert np.isinf(got.per_example.grad_norm).all()
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(got.sum))


def test_an_example_multiplies_an_array_by_a_number():
    def loss(params, x):
        return jnp.sum(jnp.sin(params["v"] * x[0]))

    params = {"v": jnp.arange(1.0, 4.0)}
    x = jnp.array([[0.3, 1.0], [0.4, 2.0], [-2.0, 0.0]])
    got, want = (
        dpjax.clipped_grad(loss, 0.5, engine=engine)(params, x).sum["v"]
        for engine in ("bookkeeping", "vmap")
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("positions", [256, 2048])
def test_a_row_looked_up_again_and_again_obeys_the_clip_norm(positions):
    def loss(params, x):
        index, vector = x
        return 1e3 * jnp.sum(params["table"][index] * vector)

    params = {"table": jnp.zeros((5000, 4))}
    fn = jax.jit(dpjax.clipped_grad(loss, 1.0, engine="bookkeeping"))
    random = np.random.default_rng(0)
    for _ in range(8):
        vector = jnp.asarray(random.normal(size=(1, 4)), jnp.float32)
        total = fn(params, (jnp.full((1, positions), 7), vector)).sum["table"]
        length = np.linalg.norm(np.asarray(total, float))
        assert 0.999 < length <= 1


class Drop:
    """A rule with factors that are no floats: all of a small gradient, or nothing."""

    sensitivity = 1.0

    def factors(self, leaf_norms, like):
        del like
        (norm,) = jax.tree.leaves(leaf_norms)
        return jax.tree.map(lambda _: norm <= 1, leaf_norms)


def test_a_rule_may_keep_or_drop():
    def loss(params, example, key):
        del key
        return jnp.sum(params["w"] * example), None

    x = jnp.array([[0.6, 0.0], [3.0, 0.0], [0.0, np.nan]])
    run = jax.jit(
        lambda w, x: bookkeeping.clipped_sum(loss, w, (x, None), None, Drop())
    )
    total, _ = run({"w": jnp.ones(2)}, x)
    np.testing.assert_allclose(total["w"], [0.6, 0.0])


@pytest.mark.parametrize("engine", ENGINES)
def test_examples_of_different_devices_are_clipped_apart_inside_of_shard_map(engine):
    def loss(params, x):
        y = lax.conv_general_dilated(
            x[None],
            params["w"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jnp.sum(jnp.tanh(y) * x[..., :1])

    fn = dpjax.clipped_grad(loss, 1.0, engine=engine)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = jax.P("data"), jax.P()

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(whole, split), out_specs=whole
    )
    def sharded(params, x):
        return lax.psum(fn(params, x).sum, "data")

    params = {"w": jnp.full((3, 3, 2, 4), 0.1)}
    x = jax.random.normal(jax.random.key(0), (16, 32, 32, 2))
    got, want = jax.jit(sharded)(params, x)["w"], jax.jit(fn)(params, x).sum["w"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


# Convolutions, a few examples at a time.


@pytest.mark.parametrize(
    ("route", "piece", "sizes"),
    [
        ("products", 1, (3, 1, 2, 5)),
        ("products", 2, (3, 2, 4, 5)),
        ("gram", 1, (2, 1, 3, 1)),
        ("gram", 3, (1, 1, 1, 3)),
        ("written out", 1, (2, 1, 3, 4)),
        ("written out", 2, (3, 2, 1, 5)),
    ],
)
def test_pieces_of_any_size_give_the_same(route, piece, sizes, monkeypatch):
    width, inputs, outputs, side = sizes
    costs = {
        "products": (False, math.inf),
        "gram": (False, 0),
        "written out": (True, 0),
    }
    better_formed, gram_cost = costs[route]
    form = convolution.Convolution
    monkeypatch.setattr(form, "is_better_formed", better_formed)
    monkeypatch.setattr(form, "_gram_cost", gram_cost)
    monkeypatch.setattr(form, "_piece", lambda self, cache: piece)
    monkeypatch.setattr(formed, "_SMALL", 0)

    def loss(kernel, x):
        y = lax.conv(x[None], kernel, (1, 1), "SAME")
        return jnp.sum(jnp.tanh(y) * jnp.arange(1.0, 1 + y.size).reshape(y.shape))

    with jax.enable_x64(True):
        random = np.random.default_rng(2)
        kernel = jnp.asarray(random.normal(size=(outputs, inputs, width, width)))
        x = jnp.asarray(random.normal(size=(6, inputs, side, side)))
        got, want = (jitted(loss, engine=engine)(kernel, x) for engine in ENGINES)
        assert np.linalg.norm(want.sum) > 0.1
        np.testing.assert_allclose(got.sum, want.sum, rtol=1e-9, atol=1e-12)
        norms = (grads.per_example.grad_norm for grads in (got, want))
        np.testing.assert_allclose(*norms, rtol=1e-9)


def test_a_kernel_without_outputs_has_an_empty_gradient():
    def loss(kernel, x):
        return jnp.sum(lax.conv(x[None], kernel, (1, 1), "SAME")) + jnp.sum(x)

    x = jnp.ones((8, 16, 64, 64))
    assert fast(loss)(jnp.zeros((0, 16, 3, 3)), x).sum.shape == (0, 16, 3, 3)
