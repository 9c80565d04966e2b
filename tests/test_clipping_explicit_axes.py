"""On a mesh with explicit axes, the default of `jax.make_mesh`: the same numbers."""

import contextlib
import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import losses
import numpy as np
import optax
import pytest

import dpjax
from dpjax import clipping, release
from dpjax.curvature import Private

DEVICES = 2
FEW_ROUNDINGS = 1e-5
# A program of these tests runs once: compiling it is what costs.
UNOPTIMISED = {"xla_backend_optimization_level": 0}

CORE = [
    "mlp_over_positions",
    "conv_everything",
    "embedding_bag",
    "transformer_with_tied_embedding",
    "dropout_with_a_key_per_example",
]


def mesh():
    made = jax.make_mesh((DEVICES,), ("data",))
    assert jax.sharding.AxisType.Explicit in made.axis_types
    return made


def put(tree, specs, on):
    def one(leaf, spec):
        return jax.device_put(leaf, jax.NamedSharding(on, spec))

    return jax.tree.map(one, tree, specs)


def assert_close(got, want, tolerance=FEW_ROUNDINGS):
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=tolerance)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(close, got, want)


def check(case, engine):
    args, specs = losses.shared_out(case, DEVICES)
    fn = dpjax.clipped_grad(case.loss, 1.0, engine=engine, **case.options)
    want = jax.jit(fn, compiler_options=UNOPTIMISED)(*args)
    on = mesh()
    with jax.set_mesh(on):
        got = jax.jit(fn, compiler_options=UNOPTIMISED)(*put(args, specs, on))
    assert_close(got.sum, want.sum, 5e-2 if case.lowest else FEW_ROUNDINGS)


@pytest.mark.parametrize("name", CORE)
def test_the_sum_is_that_of_one_device(name):
    check(losses.build(name), "bookkeeping")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["bookkeeping", "vmap"])
@pytest.mark.parametrize("name", losses.NAMES)
def test_the_sum_of_every_loss_is_that_of_one_device(name, engine):
    check(losses.build(name), engine)


# A layer whose weights are split, and examples that are.

SPECS = {"w": jax.P(None, "data"), "b": jax.P()}


def layer(features=3):
    random = np.random.default_rng(0)
    w = jnp.asarray(random.normal(size=(features, 2 * DEVICES)), jnp.float32)
    x = jnp.asarray(random.normal(size=(4 * DEVICES, features)), jnp.float32)
    return {"w": w, "b": jnp.zeros(2 * DEVICES)}, x


def layer_loss(params, x):
    return jnp.sum(jnp.tanh(x @ params["w"] + params["b"]))


def with_aux(params, x):
    return layer_loss(params, x), {"example": x, "total": jnp.sum(x)}


def noisy_loss(params, x, key):
    return layer_loss(params, x * jax.random.bernoulli(key, 0.5, x.shape))


def first_half(x):
    return jnp.arange(len(x)) < len(x) // 2


CALLS = {
    "microbatches and a mask": lambda params, x: dpjax.clipped_grad(
        layer_loss, 1.0, microbatch_size=3
    )(params, x, mask=first_half(x)),
    "groups and the reference engine": lambda params, x: dpjax.clipped_grad(
        layer_loss, {"w": 1.0, "b": 0.5}, engine="vmap"
    )(params, x),
    "aux": lambda params, x: dpjax.clipped_grad(with_aux, 1.0, has_aux=True)(params, x),
    "key and traced norm": lambda params, x: dpjax.clipped_grad(
        noisy_loss, 1.0, prng_argnum=2
    )(params, x, jax.random.key(0), l2_norm_clip=jnp.float32(0.5)),
    "without privacy": clipping.summed_grad(layer_loss),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_options_give_the_numbers_of_one_device_inside_of_a_context_and_outside(call):
    params, x = layer()
    on = mesh()
    placed = put(params, SPECS, on), put(x, jax.P("data"), on)
    want = call(params, x)
    with jax.set_mesh(on):
        inside = jax.jit(call)(*placed)
    for got in (inside, jax.jit(call)(*placed)):
        assert_close(got, want)


def test_results_are_split_as_parameters_and_examples_are():
    params, x = layer()
    on = mesh()
    fn = dpjax.clipped_grad(with_aux, 1.0, has_aux=True)
    grads = fn(put(params, SPECS, on), put(x, jax.P("data"), on))
    split = jax.tree.map(lambda leaf: leaf.sharding.spec, grads)
    assert split.sum == {"w": jax.P(None, "data"), "b": jax.P(None)}
    assert split.per_example.grad_norm == jax.P("data")
    assert split.per_example.aux == {
        "example": jax.P("data", None),
        "total": jax.P("data"),
    }


@pytest.mark.parametrize("context", [jax.set_mesh, contextlib.nullcontext])
def test_an_explanation_is_that_of_one_device(context, capsys):
    params, x = layer()
    on = mesh()
    with context(on):
        found = dpjax.explain(
            layer_loss, put(params, SPECS, on), put(x, jax.P("data"), on)
        )
    want = dpjax.explain(layer_loss, params, x)

    # JAX writes a plain gradient down in a few more equations inside of a context.
    def work(rows):
        return [dataclasses.replace(row, plain_operations=0) for row in rows]

    assert work(found.rows) == work(want.rows)
    capsys.readouterr()


OPTIMIZERS = {
    "dpsgd": lambda key: dpjax.dpsgd(
        0.1, 1.0, 1.0, key, momentum=0.9, expected_batch_size=8
    ),
    "dpadam": lambda key: dpjax.dpadam(0.1, 1.0, 1.0, key, expected_batch_size=8),
    "a mechanism's": lambda key: dpjax.DPSGD(
        num_examples=100,
        expected_batch_size=8,
        num_steps=2,
        l2_norm_clip=1.0,
        noise_multiplier=1.0,
    ).optimizer(optax.sgd(0.1), key),
}


def clipped_first(params, x):
    return dpjax.clipped_grad(layer_loss, 1.0)(params, x)


def every_gradient(params, x):
    return jax.vmap(jax.grad(layer_loss), (None, 0))(params, x)


@pytest.mark.parametrize(
    ("name", "gradients", "specs"),
    [
        *((name, clipped_first, SPECS) for name in OPTIMIZERS),
        # `jax.vmap` takes no weights that are split as the examples are.
        ("dpsgd", every_gradient, {"w": jax.P(), "b": jax.P()}),
    ],
)
def test_private_steps_are_those_of_one_device(name, gradients, specs):
    optimizer = OPTIMIZERS[name](dpjax.noise.key_data(0))

    @jax.jit
    def two_steps(params, x):
        state = optimizer.init(params)
        for _ in range(2):
            grads = gradients(params, x)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params

    params, x = layer()
    want = two_steps(params, x)
    on = mesh()
    with jax.set_mesh(on):
        placed = put(params, specs, on)
        got = two_steps(placed, put(x, jax.P("data"), on))
    assert_close(got, want)
    for leaf, like in zip(jax.tree.leaves(got), jax.tree.leaves(placed), strict=True):
        assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)
    moved = jax.tree.map(operator.sub, got, params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(moved))


def mean_output(params, x, **settings):
    def output(params, x):
        return jnp.tanh(x @ params["w"])

    return release.private_mean(output, params, Private(x), **settings)


def product(params, x, **settings):
    return release.private_hvp(layer_loss, params, Private(x), params, **settings)


@pytest.mark.parametrize("released", [mean_output, product])
def test_releases_are_those_of_one_device(released):
    settings = {"l2_norm_clip": 1.0, "noise_multiplier": 1.0, "key": 0}
    params, x = layer()
    on = mesh()
    placed = put(params, SPECS, on), put(x, jax.P("data"), on)
    want = released(params, x, **settings).value
    assert_close(released(*placed, **settings).value, want)
