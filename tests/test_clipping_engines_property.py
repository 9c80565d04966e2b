"""Random losses, drawn piece by piece: the fast engine against the reference one.

A loss is a list of pieces, each a map of activations (POSITIONS, WIDTH) to the same
shape with parameters of its own, so that any sequence is legal. Some hold another one:
they repeat it, scan, branch over or rematerialise it. What is drawn depends on its
number alone; a failure names the number and the pieces: `check(number)` runs it again.
"""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import dpjax

ENGINE = "bookkeeping"
ORACLE = "vmap"
BATCH, POSITIONS, WIDTH = 3, 4, 6
NUM_FAST, NUM_SLOW = 20, 320
UNOPTIMISED = {"xla_backend_optimization_level": 0}


class Weights:
    """Random parameters."""

    def __init__(self, seed):
        self._random = np.random.default_rng(seed)

    def __call__(self, *shape, scale=0.5):
        return jnp.asarray(scale * self._random.normal(size=shape))


# Pieces: `(make, apply)`, where `make(weights)` gives parameters and
# `apply(params, h, example)` the next activations. An example has `ids` and `key`.

PIECES = {}


def piece(*shapes):
    """Register `apply`, whose parameters are arrays of the given shapes."""

    def register(apply):
        def make(weights):
            return [weights(*shape) for shape in shapes]

        PIECES[apply.__name__] = (make, apply)
        return apply

    return register


D, T = WIDTH, POSITIONS


@piece((D, D))
def dense(params, h, example):
    return h @ params[0]


@piece((D,))
def bias(params, h, example):
    return h + params[0]


@piece((D,))
def scale(params, h, example):
    return h * params[0]


@piece(())
def scalar_gain(params, h, example):
    return h * params[0] + h


@piece(())
def scalar_shift(params, h, example):
    return h + params[0]


@piece((D, D), (D,))
def residual_mlp(params, h, example):
    return h + jnp.tanh(h @ params[0] + params[1])


@piece((D, D))
def transposed_weight(params, h, example):
    return jnp.tanh(h @ params[0].T)


@piece((D, 3))
def tied_weights(params, h, example):
    return jnp.tanh(h @ params[0]) @ params[0].T


@piece((3, D, D))
def convolution(params, h, example):
    numbers = ("NWC", "WIO", "NWC")
    return lax.conv_general_dilated(
        h[None], params[0], (1,), "SAME", dimension_numbers=numbers
    )[0]


@piece((2, 1, D))
def depthwise_convolution(params, h, example):
    return lax.conv_general_dilated(
        h[None],
        params[0],
        (1,),
        ((2, 0),),
        rhs_dilation=(2,),
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=D,
    )[0]


@piece((3, D // 2, D))
def grouped_convolution(params, h, example):
    return lax.conv_general_dilated(
        h[None],
        params[0],
        (1,),
        "SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=2,
    )[0]


@piece((2, D, D))
def transposed_convolution(params, h, example):
    out = lax.conv_transpose(
        h[None, ::2], params[0], (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    return out[0]


@piece((D,), (D,))
def layer_norm(params, h, example):
    centred = h - h.mean(1, keepdims=True)
    variance = jnp.mean(centred**2, 1, keepdims=True)
    return centred * lax.rsqrt(variance + 0.1) * params[0] + params[1]


@piece((D,))
def group_norm(params, h, example):
    groups = h.reshape(T, 2, D // 2)
    groups = groups - groups.mean((0, 2), keepdims=True)
    groups = groups * lax.rsqrt(jnp.mean(groups**2, (0, 2), keepdims=True) + 0.1)
    return groups.reshape(T, D) * params[0]


@piece((D,))
def rms_norm(params, h, example):
    return h * lax.rsqrt(jnp.mean(h**2, 1, keepdims=True) + 0.1) * (1 + params[0])


@piece((D, 3 * D))
def attention(params, h, example):
    q, k, v = jnp.split(h @ params[0], 3, axis=1)
    logits = jnp.where(jnp.tril(jnp.ones((T, T), bool)), q @ k.T, -1e9)
    return h + jax.nn.softmax(logits) @ v


@piece((D, D), (T, T))
def attention_with_position_bias(params, h, example):
    return jax.nn.softmax(h @ params[0] @ h.T / D + params[1]) @ h


@piece((5, D))
def embedding(params, h, example):
    return h + params[0][example["ids"]]


@piece((5, D))
def embedding_filled_out_of_bounds(params, h, example):
    return h + jnp.take(
        params[0], 2 * example["ids"] - 1, axis=0, mode="fill", fill_value=0.5
    )


@piece((5, D))
def embedding_tied_to_the_output(params, h, example):
    logits = (h + params[0][example["ids"]]) @ params[0].T
    return jax.nn.softmax(logits) @ params[0]


@piece((D, 7))
def gathered_columns(params, h, example):
    return h * params[0][:, example["ids"]].T


@piece((9, D))
def positions_by_slice(params, h, example):
    return h + lax.dynamic_slice_in_dim(params[0], example["ids"][0], T)


@piece((D,))
def row_written_into_data(params, h, example):
    return h.at[1].set(params[0])


@piece((T + 1, D))
def data_scattered_into_a_parameter(params, h, example):
    return jnp.tanh(params[0].at[example["ids"]].add(h)[:T])


@piece((D, D), (D, D), (D,))
def rnn_by_scan(params, h, example):
    def step(state, h_t):
        state = jnp.tanh(h_t @ params[0] + state @ params[1])
        return state, state

    return lax.scan(step, params[2], h)[1]


@piece((D, 4 * D), (D, 4 * D))
def lstm_with_concatenated_kernels(params, h, example):
    def step(carry, h_t):
        state, cell = carry
        i, f, g, o = jnp.split(h_t @ params[0] + state @ params[1], 4)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        state = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (state, cell), state

    return lax.scan(step, (jnp.zeros(D), jnp.zeros(D)), h, reverse=True)[1]


@piece((3, D, D), (3, D))
def scan_over_layers(params, h, example):
    def layer(h, layer_params):
        return jnp.tanh(h @ layer_params[0] + layer_params[1]), None

    return lax.scan(layer, h, tuple(params))[0]


@piece((2, D, D), (D, D))
def nested_scan(params, h, example):
    def layer(h, w):
        def step(state, h_t):
            state = jnp.tanh(h_t @ w + state @ params[1])
            return state, state

        return lax.scan(step, jnp.zeros(D), h)[1], None

    return lax.scan(layer, h, params[0])[0]


@piece((D, D), (3, D))
def loop_with_static_trip_count(params, h, example):
    def body(i, h):
        return jnp.tanh(h @ params[0] + params[1][i])

    return lax.fori_loop(0, 3, body, h)


@piece((3, D, D))
def stack_in_a_python_loop(params, h, example):
    for i in range(3):
        h = jnp.sin(h @ params[0][i])
    return h


@piece((3, D, D), (D, 3))
def experts_by_gather(params, h, example):
    best = jnp.argmax(h @ params[1], axis=1)
    return jnp.einsum("td,tde->te", h, params[0][best])


@piece((D, 3), (3, D, D))
def experts_by_top_k(params, h, example):
    gates, chosen = lax.top_k(jax.nn.softmax(h @ params[0]), 2)
    return jnp.einsum("tk,td,tkde->te", gates, h, params[1][chosen])


@piece((D, D), (D,))
def experts_by_switch(params, h, example):
    branches = [
        lambda h: h @ params[0],
        lambda h: jnp.tanh(h @ params[0].T + params[1]),
        lambda h: h * params[1],
    ]
    return lax.switch(example["ids"][0] % 3, branches, h)


@piece((D, D), (D,))
def weight_norm(params, h, example):
    w = params[0] / jnp.sqrt(jnp.sum(params[0] ** 2, axis=0) + 0.1)
    return h @ (w * params[1])


@piece((D, D))
def weight_standardisation(params, h, example):
    w = params[0] - params[0].mean(0)
    return h @ (w / jnp.sqrt(jnp.mean(w**2, axis=0) + 0.1))


@piece((D, D))
def masked_weight(params, h, example):
    return h @ jnp.triu(params[0])


@piece((D, 2), (2, D))
def low_rank_merged(params, h, example):
    return h @ (jnp.eye(D) + params[0] @ params[1])


@piece((D, D - 2), (D, 2))
def kernels_concatenated(params, h, example):
    return jnp.tanh(h @ jnp.concatenate(params, axis=1))


@piece((D, 3 * D))
def slice_of_a_packed_weight(params, h, example):
    return h @ params[0][:, D : 2 * D] + jnp.tanh(h @ params[0][:, :D])


@piece((D, D))
def frozen_by_stop_gradient(params, h, example):
    return h @ lax.stop_gradient(params[0]) + jnp.tanh(h @ params[0])


@piece((2, 3, D), (2, D, 3))
def einsum_with_head_axis(params, h, example):
    inner = jnp.einsum("td,hed->the", h, params[0])
    return jnp.einsum("the,hde->td", jnp.tanh(inner), params[1])


@piece((D, D, D))
def bilinear_form(params, h, example):
    return jnp.einsum("ta,abc,tb->tc", h, params[0], h) / D


@piece((T, T))
def mixing_of_positions(params, h, example):
    return params[0] @ h


@piece((T, D, D))
def weight_per_position(params, h, example):
    return jnp.einsum("td,tde->te", h, params[0])


@piece((D,))
def dropout_and_scale(params, h, example):
    kept = jax.random.bernoulli(example["key"], 0.8, h.shape)
    return jnp.where(kept, h, 0) * params[0]


@piece((D, D))
def pooling(params, h, example):
    highest = lax.reduce_window(
        h @ params[0], -jnp.inf, lax.max, (2, 1), (1, 1), "SAME"
    )
    return highest + lax.reduce_window(h, 0.0, lax.add, (3, 1), (1, 1), "SAME") / 3


@piece((D,), (D,))
def piecewise_activation(params, h, example):
    return jnp.where(h > 0, h, params[0] * h) / (1 + params[1] ** 2)


@piece((D,))
def power_and_maximum(params, h, example):
    return (1 + h**2) ** params[0] - jnp.maximum(h, params[0])


@piece((3, D))
def fourier_filter(params, h, example):
    return jnp.fft.irfft(jnp.fft.rfft(h, axis=0) * params[0], n=T, axis=0)


@piece((D, D))
def solved_system(params, h, example):
    matrix = params[0] @ params[0].T + jnp.eye(D)
    return jnp.linalg.solve(matrix, h.T).T


@piece((D, D))
def gradient_of_an_energy(params, h, example):
    return jax.grad(lambda h: jnp.sum(jnp.tanh(h @ params[0]) ** 2))(h)


@piece((D, D))
def inner_gradient_step(params, h, example):
    def error(w):
        return jnp.mean((jnp.tanh(h @ w) - h) ** 2)

    return h @ (params[0] - jax.grad(error)(params[0]))


@piece((D, D))
def vmapped_over_positions(params, h, example):
    return jax.vmap(lambda h_t: jnp.tanh(params[0] @ h_t))(h)


@piece((T, D, D))
def vmapped_over_parameters(params, h, example):
    return jax.vmap(lambda w, h_t: jnp.tanh(h_t @ w))(params[0], h)


@jax.custom_vjp
def _fused(w, h):
    return jnp.sin(h @ w)


def _fused_backward(saved, cotangent):
    w, h = saved
    inner = cotangent * jnp.cos(h @ w)
    return h.T @ inner, inner @ w.T


_fused.defvjp(lambda w, h: (_fused(w, h), (w, h)), _fused_backward)


@piece((D, D))
def custom_vjp(params, h, example):
    return _fused(params[0], h)


@jax.custom_jvp
def _soft(h, slope):
    return jnp.logaddexp(slope * h, 0)


@_soft.defjvp
def _soft_jvp(primals, tangents):
    h, slope = primals
    gate = jax.nn.sigmoid(slope * h)
    return _soft(h, slope), gate * (slope * tangents[0] + h * tangents[1])


@piece((D,))
def custom_jvp(params, h, example):
    return _soft(h, params[0])


@piece((D, D), (D,))
def regularised(params, h, example):
    penalty = 0.05 * jnp.sum(params[0] ** 2)
    return jnp.tanh(h @ params[0]) + penalty * params[1]


@piece((D,), (4,))
def with_an_unused_parameter(params, h, example):
    return h + jnp.sin(h) * params[0]


# Pieces that hold another piece.

HOLDERS = {}


def holder(apply):
    """Register `apply(apply_inner, params, h, example)`."""
    HOLDERS[apply.__name__] = apply
    return apply


@holder
def called_twice(inner, params, h, example):
    return inner(params, jnp.sin(inner(params, h, example)), example)


@holder
def rematerialised(inner, params, h, example):
    return jax.checkpoint(inner)(params, h, example)


@holder
def inside_jit(inner, params, h, example):
    return jax.jit(inner)(params, h, example)


@holder
def repeated_by_scan(inner, params, h, example):
    def step(h, _):
        return jnp.sin(inner(params, h, example)), None

    return lax.scan(step, h, length=3)[0]


@holder
def stacked_by_scan_with_remat(inner, params, h, example):
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, jnp.flip(leaf)]), params)

    @jax.checkpoint
    def layer(h, layer_params):
        return jnp.sin(inner(layer_params, h, example)), None

    return lax.scan(layer, h, stack)[0]


@holder
def under_cond(inner, params, h, example):
    return lax.cond(
        example["ids"][0] > 2, lambda h: inner(params, h, example), jnp.sin, h
    )


@holder
def with_residual(inner, params, h, example):
    return h + jnp.tanh(inner(params, h, example))


KINDS = (*PIECES, *HOLDERS)


@functools.cache
def draws(num):
    """Return `num` lists of pieces; a holder comes as (holder, piece).

    Kinds are dealt from a shuffled deck, so that none is rare.
    """
    random = np.random.default_rng(20)
    deck, specs = [], []

    def deal():
        if not deck:
            deck.extend(str(kind) for kind in random.permutation(KINDS))
        kind = deck.pop()
        return (kind, str(random.choice([*PIECES]))) if kind in HOLDERS else kind

    for _ in range(num):
        specs.append(tuple(deal() for _ in range(random.integers(2, 6))))
    return specs


def build(spec, weights):
    """Return the loss of a list of pieces, and its parameters."""
    params, applies = [], []
    for name in spec:
        outer, inner = name if isinstance(name, tuple) else (None, name)
        make, apply = PIECES[inner]
        params.append(make(weights))
        applies.append(
            apply if outer is None else functools.partial(HOLDERS[outer], apply)
        )

    def loss(params, key, ids, x, y):
        h = x
        for i, (apply, part) in enumerate(zip(applies, params, strict=True)):
            example = {"ids": ids, "key": jax.random.fold_in(key, i)}
            # Bounded, so that no sequence of pieces grows or dies out.
            h = 2 * jnp.tanh(apply(part, h, example) / 2) + 0.1 * h
        return jnp.sum(jnp.square(h - y))

    return loss, params


def run(loss, args, engine):
    """Return the clipped sum and the norms, at a clip norm of the median norm."""
    fn = dpjax.clipped_grad(loss, 1.0, prng_argnum=1, engine=engine)
    return jax.jit(
        lambda args, clip: fn(*args, l2_norm_clip=clip), compiler_options=UNOPTIMISED
    )


def check(number):
    """Compare the engines on one drawn loss, in float64."""
    spec = draws(NUM_SLOW)[number]
    weights = Weights(number)
    loss, params = build(spec, weights)
    ids = jnp.asarray(np.random.default_rng(number).integers(0, 5, (BATCH, T)))
    x, y = weights(BATCH, T, D, scale=1.0), weights(BATCH, T, D, scale=1.0)
    args = (params, jax.random.key(number), ids, x, y)
    oracle, fast = (run(loss, args, engine) for engine in (ORACLE, ENGINE))
    norms = oracle(args, jnp.asarray(1.0)).per_example.grad_norm
    clip = jnp.median(norms)
    want, got = oracle(args, clip), fast(args, clip)
    assert np.all(np.isfinite(norms)), spec
    assert np.all(np.asarray(norms) > 0), spec
    scale = float(jnp.sum(jnp.minimum(norms, clip)))
    for name, a, b in zip(
        (name for name, part in zip(spec, params, strict=True) for _ in part),
        jax.tree.leaves(got.sum),
        jax.tree.leaves(want.sum),
        strict=True,
    ):
        distance = float(jnp.linalg.norm(a - b))
        said = f"draw {number}, {spec}: {name} is {distance:.3g} apart"
        assert distance <= 1e-9 * scale, said
    np.testing.assert_allclose(
        got.per_example.grad_norm, norms, rtol=1e-9, err_msg=f"draw {number}, {spec}"
    )
    np.testing.assert_allclose(
        got.per_example.loss, want.per_example.loss, rtol=1e-9, err_msg=str(spec)
    )


def count(specs):
    """Return how often each kind was drawn."""
    names = (
        name
        for spec in specs
        for part in spec
        for name in (part if isinstance(part, tuple) else (part,))
    )
    return collections.Counter(names)


@pytest.mark.parametrize("num", [NUM_FAST, NUM_SLOW])
def test_every_kind_of_piece_is_drawn(num, record_property):
    counts = count(draws(NUM_SLOW)[:num])
    record_property("pieces_drawn", dict(counts))
    print(f"{num} losses, {counts.total()} pieces of {len(counts)} kinds: {counts}")
    assert len(KINDS) >= 25
    assert set(counts) == set(KINDS)


@pytest.mark.parametrize("number", range(NUM_FAST))
def test_the_engines_agree_on_random_losses(number):
    with jax.enable_x64(True):
        check(number)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(NUM_FAST, NUM_SLOW))
def test_the_engines_agree_on_more_random_losses(number):
    with jax.enable_x64(True):
        check(number)
