"""The fast engine against the reference one: every loss, every option, hostile data."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pairwise
import pytest
from jax import lax

import dpjax

ENGINE = "bookkeeping"
ORACLE = "vmap"

# A program of these tests runs a handful of times: compiling it is what costs.
UNOPTIMISED = {"xla_backend_optimization_level": 0}

# How far two sums may lie apart, as a share of the sum of the clipped norms, and two
# norms, as a share of the norm. Cotangents in half precision are rounded at each
# operation, in an order that is the engine's own: eps times the depth of the loss.
TOLERANCE = {"float64": 1e-10, "float32": 5e-6, "float16": 6e-3, "bfloat16": 5e-2}
NORM_TOLERANCE = TOLERANCE | {"float32": 1e-5}

# One or more of each kind. The others are variants of these; they run with `-m slow`.
CORE = [
    "mlp",
    "mlp_over_positions",
    "conv_everything",
    "conv_groups",
    "conv_depthwise",
    "conv_one_dimension",
    "conv_three_dimensions",
    "flax_conv_circular",
    "flax_conv_transposed",
    "flax_cnn_with_pooling",
    "conv_of_a_parameter_with_data_as_kernel",
    "norm_layer",
    "norm_group",
    "norm_rms",
    "weight_standardisation",
    "weight_norm",
    "flax_attention_with_masks",
    "transformer_with_tied_embedding",
    "embedding_windows",
    "embedding_bag",
    "gathered_columns",
    "positions_by_dynamic_slice",
    "parameter_written_into_data",
    "data_written_into_a_parameter",
    "flax_rnn_lstm_with_concatenated_kernels",
    "flax_rnn_gru_reversed",
    "rnn_with_learned_initial_state",
    "scan_over_layers_with_remat",
    "nested_scan_of_layers_around_an_rnn",
    "scan_with_a_stack_that_is_also_used_whole",
    "loop_with_static_trip_count",
    "while_loop_on_data_and_on_stopped_parameters",
    "experts_gathered_by_top_k",
    "experts_by_cond",
    "cond_inside_scan_inside_remat",
    "layer_called_several_times",
    "weight_shared_by_a_table_a_dense_layer_and_a_scale",
    "lora_added_to_frozen_weights",
    "l2_term",
    "parameters_used_nowhere",
    "scalars",
    "piecewise_and_powers",
    "broadcast_in_every_way",
    "einsum_several_axes",
    "einsum_diagonal",
    "einsum_of_many_operands",
    "complex_parameters",
    "custom_vjp_of_parameters_and_data",
    "custom_vjp_that_is_not_the_derivative",
    "custom_jvp_of_parameters_and_data",
    "nested_jit",
    "meta_learning",
    "dropout_with_a_key_per_example",
    "nnx_model",
    "equinox_model",
]
LOW_PRECISION = [
    "precision_bf16_params_f32_compute",
    "precision_bf16_params_bf16_compute",
    "precision_f32_params_bf16_compute",
    "precision_f16_params_f16_compute",
    "precision_mixed_over_leaves",
    "accumulated_in_higher_precision",
]
CORE_IN_FLOAT32 = [
    *LOW_PRECISION,
    "mlp_over_positions",
    "conv_everything",
    "norm_layer",
    "transformer_with_tied_embedding",
    "embedding_bag",
    "rnn_with_learned_initial_state",
    "scan_over_layers",
    "experts_gathered_for_one_token",
    "weight_norm",
    "scalars",
    "dropout_with_a_key_per_example",
    "complex_parameters",
]


def compiled(case, engine, clip=1.0, **settings):
    """Return `fn(args, clip, mask)`, compiled as a whole."""
    fn = dpjax.clipped_grad(
        case.loss, clip, engine=engine, **{**case.options, **settings}
    )

    def call(args, clip=None, mask=None):
        return fn(*args, l2_norm_clip=clip, mask=mask)

    return jax.jit(call, compiler_options=UNOPTIMISED)


def norm64(tree):
    """Return the norm of all leaves together, in float64."""
    leaves = [np.asarray(leaf, np.complex128).ravel() for leaf in jax.tree.leaves(tree)]
    return np.linalg.norm(np.concatenate(leaves))


def assert_same(got, want, precision, scale):
    """Compare all that `clipped_grad` returns; `scale` is the sum of clipped norms."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(got.sum),
        jax.tree.leaves(want.sum),
        strict=True,
    ):
        name = jax.tree_util.keystr(path)
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        distance = norm64(np.asarray(a) - np.asarray(b))
        limit = TOLERANCE[precision] * scale
        assert distance <= limit, f"{name}: {distance:.3g} apart, limit {limit:.3g}"
    rtol = NORM_TOLERANCE[precision]
    # Where a gradient is not finite, its norm is not: which of Inf and NaN is open.
    norms = (np.asarray(grads.per_example.grad_norm) for grads in (got, want))
    norms = [np.where(np.isfinite(norm), norm, np.inf) for norm in norms]
    np.testing.assert_allclose(*norms, rtol=rtol)
    close = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=rtol)
    jax.tree.map(
        close,
        (got.per_example.loss, got.per_example.aux, got.sensitivity),
        (want.per_example.loss, want.per_example.aux, want.sensitivity),
    )
    assert got.batch_size == want.batch_size


def check(name, precision):
    """Clip about half of the examples of a case, with both engines."""
    case = losses.build(name)
    oracle, fast = (compiled(case, engine) for engine in (ORACLE, ENGINE))
    norms = np.asarray(oracle(case.args, jnp.asarray(1.0)).per_example.grad_norm)
    clip = float(np.median(norms)) or 1.0
    scale = np.minimum(norms, clip).sum()
    got, want = (fn(case.args, jnp.asarray(clip)) for fn in (fast, oracle))
    assert_same(got, want, case.lowest or precision, scale)


def in_float64(name):
    with jax.enable_x64(True):
        check(name, "float64")


@pytest.mark.parametrize("name", CORE)
def test_the_engines_agree_in_float64(name):
    in_float64(name)


@pytest.mark.parametrize("name", CORE_IN_FLOAT32)
def test_the_engines_agree_to_the_rounding_of_float32(name):
    check(name, "float32")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*losses.NAMES} - {*CORE, *LOW_PRECISION}))
def test_the_engines_agree_in_float64_on_the_rest_of_the_zoo(name):
    in_float64(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*losses.NAMES} - {*CORE_IN_FLOAT32}))
def test_the_engines_agree_to_the_rounding_of_float32_on_the_rest_of_the_zoo(name):
    check(name, "float32")


# Options.


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=(), meta_fields=("bound",)
)
@dataclasses.dataclass(frozen=True)
class SoftClip:
    """A rule of a user's own: each leaf by itself, g C / (C + norm)."""

    bound: float

    @property
    def sensitivity(self):
        """Not under test."""
        return self.bound

    def factors(self, leaf_norms, like):
        """Return C / (C + norm)."""
        assert jax.tree.structure(like) == jax.tree.structure(leaf_norms)
        return jax.tree.map(lambda norm: self.bound / (self.bound + norm), leaf_norms)


def by_child(params, clip):
    """Return one clip norm for each top-level child, no two the same."""
    children, structure = jax.tree.flatten(params, is_leaf=lambda x: x is not params)
    norms = [clip * (i + 1) / len(children) for i in range(len(children))]
    return jax.tree.unflatten(structure, norms)


# From params and a number to (what the settings say, what the call says).
CLIPS = {
    "one": lambda params, clip: (clip, None),
    "groups": lambda params, clip: (by_child(params, clip), None),
    "leaves_traced": lambda params, clip: (
        1.0,
        jax.tree.map(lambda leaf: jnp.float32(clip / (1 + leaf.ndim)), params),
    ),
    "traced": lambda params, clip: (1e6, jnp.float32(clip)),
    "rule": lambda params, clip: (SoftClip(clip), None),
}
# A number within the norms of the case, so that some examples are clipped.
OPTION_CASES = {
    "aux_of_every_kind": 1.2,
    "flax_mlp_keep_batch_dim": 3.0,
    "dropout_with_a_key_per_example": 14.0,
    "several_parameter_arguments": 2.4,
    "rnn_with_learned_initial_state": 7.0,
}
FACTORS = {
    "case": tuple(OPTION_CASES),
    "clip": tuple(CLIPS),
    "mask": ("absent", "all", "none", "some"),
    "microbatch_size": (None, 2, 5, 9),
    "batch_size": (5, 1, 0),
    "around": ("nothing", "jit", "scan"),
}

MASKS = {
    "absent": None,
    "all": np.ones(losses.BATCH, bool),
    "none": np.zeros(losses.BATCH, bool),
    "some": np.array([True, False, False, True, True]),
}


def first_rows(case, batch_size):
    """Return the arguments of a smaller batch; the key stays as it is."""
    num_params = len(case.args) - len(case.batch)
    key = case.options.get("prng_argnum")
    return tuple(
        arg
        if i < num_params or i == key
        else jax.tree.map(lambda leaf: leaf[:batch_size], arg)
        for i, arg in enumerate(case.args)
    )


def called(fn, around, args, **kwargs):
    """Call as it is, inside a jitted function, or in the body of a scan."""
    if around == "nothing":
        return fn(*args, **kwargs)
    if around == "jit":
        return jax.jit(lambda args, kwargs: fn(*args, **kwargs))(args, kwargs)

    def body(carry, _):
        return carry, fn(*carry, **kwargs)

    _, each = lax.scan(body, args, length=2)
    return jax.tree.map(lambda leaf: leaf[1], each)


@pytest.mark.parametrize(
    "row",
    pairwise.rows(FACTORS, tries=200),
    ids=lambda row: "-".join(map(str, row.values())),
)
def test_the_engines_agree_under_every_pair_of_options(row):
    case, clip = losses.build(row["case"]), OPTION_CASES[row["case"]]
    args = first_rows(case, row["batch_size"])
    mask = MASKS[row["mask"]]
    mask = None if mask is None else jnp.asarray(mask[: row["batch_size"]])
    static, traced = CLIPS[row["clip"]](case.params, clip)
    settings = {**case.options, "microbatch_size": row["microbatch_size"]}
    got, want = (
        called(
            dpjax.clipped_grad(case.loss, static, engine=engine, **settings),
            row["around"],
            args,
            mask=mask,
            l2_norm_clip=traced,
        )
        for engine in (ENGINE, ORACLE)
    )
    assert_same(got, want, case.lowest or "float32", losses.BATCH * clip)
    if row["mask"] == "none" or row["batch_size"] == 0:
        assert norm64(got.sum) == 0


def test_a_loss_takes_its_arguments_in_any_order_and_constants_of_any_kind():
    def scaled(x, params, scale, mode, extra):
        assert mode == "double"
        return 2 * scale * jnp.tanh(x @ params["w"]) @ extra["gain"]

    x = jnp.linspace(-1, 1, 10).reshape(5, 2)
    w = jnp.arange(6.0).reshape(2, 3) / 5
    args = (x, {"w": w}, 3.0, "double", {"gain": np.arange(3.0, dtype=np.float32)})
    grads = [
        dpjax.clipped_grad(scaled, 4.0, argnums=1, batch_argnums=0, engine=engine)(
            *args
        )
        for engine in (ENGINE, ORACLE)
    ]
    assert_same(*grads, "float32", 5 * 4.0)


@pytest.mark.parametrize("microbatch_size", [None, 3])
def test_a_batch_sharded_over_two_devices_gives_the_same(microbatch_size):
    case = losses.build("embedding_bag")
    batch = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:1]]), case.batch)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    fn = jax.jit(
        dpjax.clipped_grad(
            case.loss, 3.0, engine=ENGINE, microbatch_size=microbatch_size
        )
    )
    sharded = fn(jax.device_put(case.params, everywhere), *jax.device_put(batch, rows))
    assert_same(sharded, fn(case.params, *batch), "float32", 6 * 3.0)


# Hostile examples.


def gentle(out):
    """Return a loss that grows linearly, so that large inputs have finite gradients."""
    return jnp.sum(jnp.logaddexp(out, -1.2 * out))


def hostile_mlp(params, x):
    return gentle(jax.nn.relu(x @ params["in"] + params["b"]) @ params["w"])


def hostile_conv(params, x):
    kernel = params["w"].reshape(2, 2, 4)
    out = lax.conv_general_dilated(
        x[None], kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    return gentle(out + params["b"])


def hostile_embedding(params, x):
    ids = jnp.array([0, 3, 3, 1, 2, 0])
    return gentle(jnp.sum(params["w"][ids] * x[:, :1], axis=0) + params["b"])


def hostile_scan(params, x):
    def step(h, x_t):
        return 0.5 * h @ params["w"] + x_t @ params["in"], None

    return gentle(lax.scan(step, params["b"], x)[0])


def hostile_layer_norm(params, x):
    centred = x - x.mean(axis=1, keepdims=True)
    normed = centred * lax.rsqrt(jnp.mean(centred**2, axis=1, keepdims=True) + 1e-5)
    return gentle((normed * params["scale"]) @ params["in"] + params["b"])


def hostile_rms_norm(params, x):
    largest = jnp.max(jnp.abs(x)) + 1e-30
    x = x / largest
    x = x * lax.rsqrt(jnp.mean(x**2, axis=1, keepdims=True) + 1e-6)
    return gentle(x * largest * params["scale"] @ params["in"])


def hostile_weight_norm(params, x):
    w = params["w"] / jnp.linalg.norm(params["w"], axis=0)
    return gentle(jnp.maximum(x @ params["in"], 0) @ w + params["b"]) + jnp.sum(w**4)


def hostile_tied(params, x):
    h = x @ params["in"] + params["in"][0]
    return gentle(h @ params["in"].T) + gentle(params["w"][:2].T * x[0])


HOSTILE_LOSSES = {
    "mlp": hostile_mlp,
    "conv": hostile_conv,
    "embedding": hostile_embedding,
    "scan": hostile_scan,
    "layer_norm": hostile_layer_norm,
    "rms_norm": hostile_rms_norm,
    "weight_norm": hostile_weight_norm,
    "tied": hostile_tied,
}
HOSTILE = {
    "nan": np.nan,
    "inf": np.inf,
    "minus_inf": -np.inf,
    "huge": 1e30,
    "squares_overflow": 1e25,
    "fourth_powers_overflow": 1e15,
    "fp16_tiny": 6e-8,
    "squares_underflow": 1e-25,
    "zero": 0.0,
}
HOSTILE_CLIP = 0.5


def hostile_params():
    random = np.random.default_rng(3)
    shapes = {"in": (2, 4), "w": (4, 4), "b": (4,), "scale": (2,)}
    return {name: jnp.asarray(random.normal(size=s)) for name, s in shapes.items()}


def hostile_batch(batch_size=4):
    return jnp.asarray(np.random.default_rng(4).normal(size=(batch_size, 6, 2)))


@functools.cache
def hostile_grad(name, engine):
    """One function a loss and engine, so that it compiles once for all values."""
    return compiled(losses.Case(HOSTILE_LOSSES[name], None, ()), engine, HOSTILE_CLIP)


def hostile_sum(name, engine, x, mask=None):
    mask = jnp.ones(len(x), bool) if mask is None else mask
    return hostile_grad(name, engine)((hostile_params(), x), mask=mask)


def hostile_contribution(name, engine, x, hostile):
    """Return what one example adds to the sum, as a vector in float64."""
    total = hostile_sum(name, engine, x, jnp.arange(len(x)) == hostile).sum
    leaves = [np.asarray(leaf, float).ravel() for leaf in jax.tree.leaves(total)]
    return np.concatenate(leaves)


def assert_counts_by_a_bound(name, x, hostile):
    """Check an example whose squares overflow or vanish.

    Where several positions meet, the fast engine clips it by an upper bound of its norm
    (the triangle inequality): shorter than the reference does, in the same direction.
    """
    got, want = (hostile_sum(name, engine, x) for engine in (ENGINE, ORACLE))
    assert np.isfinite(norm64(got.sum))
    bounds, norms = (np.asarray(g.per_example.grad_norm) for g in (got, want))
    others = np.arange(len(x)) != hostile
    np.testing.assert_allclose(
        bounds[others], norms[others], rtol=NORM_TOLERANCE["float32"]
    )
    if not np.isfinite(norms[hostile]):
        assert not np.isfinite(bounds[hostile])
    else:
        assert bounds[hostile] >= norms[hostile] * (1 - 1e-5)
        assert bounds[hostile] <= norms[hostile] * 40
    ours, theirs = (
        hostile_contribution(name, engine, x, hostile) for engine in (ENGINE, ORACLE)
    )
    assert np.linalg.norm(ours) <= HOSTILE_CLIP
    if np.any(theirs):
        lengths = np.linalg.norm(ours) * np.linalg.norm(theirs)
        assert np.vdot(ours, theirs) > (1 - 1e-4) * lengths > 0


# Squares of what they multiply leave float32.
BEYOND = {"huge", "squares_overflow", "squares_underflow"}


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("name", HOSTILE_LOSSES)
def test_a_hostile_example_counts_as_in_the_reference_engine(name, value):
    x = hostile_batch().at[1].multiply(HOSTILE[value])
    if value in BEYOND:
        assert_counts_by_a_bound(name, x, 1)
        return
    got, want = (hostile_sum(name, engine, x) for engine in (ENGINE, ORACLE))
    assert np.isfinite(norm64(got.sum))
    assert_same(got, want, "float32", 4 * HOSTILE_CLIP)


@pytest.mark.parametrize("name", HOSTILE_LOSSES)
def test_one_hostile_number_in_an_example_counts_as_in_the_reference_engine(name):
    for value in (np.nan, np.inf):
        x = hostile_batch().at[2, 3, 0].set(value)
        got, want = (hostile_sum(name, engine, x) for engine in (ENGINE, ORACLE))
        assert_same(got, want, "float32", 4 * HOSTILE_CLIP)
    assert_counts_by_a_bound(name, hostile_batch().at[2, 3, 0].set(1e30), 2)


@pytest.mark.parametrize("name", HOSTILE_LOSSES)
def test_an_example_without_a_finite_gradient_contributes_exactly_zero(name):
    x = hostile_batch()
    without = hostile_sum(name, ENGINE, x, jnp.arange(4) != 1)
    for value in (np.nan, np.inf, -np.inf):
        poisoned = hostile_sum(name, ENGINE, x.at[1].set(value))
        assert not np.isfinite(poisoned.per_example.grad_norm[1])
        jax.tree.map(np.testing.assert_array_equal, poisoned.sum, without.sum)


@pytest.mark.parametrize("name", HOSTILE_LOSSES)
def test_a_masked_row_may_hold_anything(name):
    x, mask = hostile_batch(), jnp.arange(4) != 2
    clean = hostile_sum(name, ENGINE, x, mask)
    for value in HOSTILE.values():
        padded = hostile_sum(name, ENGINE, x.at[2].set(value), mask)
        jax.tree.map(np.testing.assert_array_equal, padded.sum, clean.sum)


@pytest.mark.parametrize("name", HOSTILE_LOSSES)
def test_a_batch_of_bad_examples_gives_zero(name):
    for value in (np.nan, np.inf):
        bad = hostile_sum(name, ENGINE, jnp.full((4, 6, 2), value))
        assert norm64(bad.sum) == 0


@pytest.mark.parametrize("name", HOSTILE_LOSSES)
def test_a_batch_of_one_hostile_example_obeys_the_bound_without_slack(name):
    values = [*HOSTILE.values(), 1.0, 30.0, 1e3, 1e10, -1e15, np.finfo(np.float32).max]
    with np.errstate(over="ignore"):
        rows = [hostile_batch(1) * np.float32(value) for value in values]
    norms = [norm64(hostile_sum(name, ENGINE, row).sum) for row in rows]
    assert max(norms) <= HOSTILE_CLIP
    assert max(norms) >= HOSTILE_CLIP * (1 - 1e-5)


# Positions that cancel: a gradient that is far smaller than the terms of its sum.

WIDTH, POSITIONS = 40, 4


def cancelling_dense(w, x, c):
    return jnp.vdot(x @ w, c)


def cancelling_calls(w, x, c):
    return sum(x_t @ w @ c_t for x_t, c_t in zip(x, c, strict=True))


def cancelling_tied(w, x, c):
    return jnp.vdot(x[::2] @ w, c[::2]) + jnp.vdot(c[1::2] @ w.T, x[1::2])


def cancelling_conv(w, x, c):
    out = lax.conv_general_dilated(
        x[None], w[None], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
    )
    return jnp.vdot(out[0], c)


def cancelling_table(w, x, c):
    return jnp.vdot(w[jnp.array([3, 3, 5, 5])] * x[:, :1], c)


def cancelling_scan(w, x, c):
    def step(total, pair):
        return total + pair[0] @ w @ pair[1], None

    return lax.scan(step, jnp.zeros((), w.dtype), (x, c))[0]


def cancelling_bias_and_scale(w, x, c):
    return jnp.vdot(x[:, :1] * w[0], c) + jnp.vdot(x[:, :1] * c + w[1], x[:, :1] * c)


def cancelling_table_and_dense(w, x, c):
    unit = jnp.eye(WIDTH, dtype=w.dtype)[7]
    dense = jnp.vdot(unit @ w, c[0] * x[0, 0]) + jnp.vdot(unit @ w, c[2] * x[2, 0])
    return dense + jnp.vdot(w[jnp.array([7, 7])], c[1::2] * x[1::2, :1])


CANCELLING = {
    "dense": cancelling_dense,
    "calls": cancelling_calls,
    "tied": cancelling_tied,
    "conv": cancelling_conv,
    "table": cancelling_table,
    "scan": cancelling_scan,
    "bias_and_scale": cancelling_bias_and_scale,
    "table_and_dense": cancelling_table_and_dense,
}


def cancelling_rows(excess, dtype):
    """Return positions in pairs (x, -(1 + excess) x), and their cotangents."""
    random = np.random.default_rng(5)
    x, c = random.normal(size=(2, POSITIONS // 2, WIDTH))
    signs = np.tile([1.0, -(1.0 + excess)], POSITIONS // 2)[:, None]
    x, c = np.repeat(x, 2, axis=0) * signs, np.repeat(c, 2, axis=0)
    return jnp.asarray(x, dtype), jnp.asarray(c, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CANCELLING)
def test_positions_that_nearly_cancel_obey_the_bound_without_slack(name, dtype):
    fn = compiled(losses.Case(CANCELLING[name], None, ()), ENGINE)
    w = jnp.zeros((WIDTH, WIDTH), dtype)
    for excess in (0.0, 2.0**-23, 2.0**-20, 2.0**-16, 2.0**-10, 2.0**-6, 0.5):
        x, c = (leaf[None] for leaf in cancelling_rows(excess, dtype))
        for exponent in range(-26, 8, 2):
            clip = 2.0**exponent
            total = fn((w, x, c), jnp.float32(clip)).sum
            assert norm64(total) <= clip, (excess, clip)
