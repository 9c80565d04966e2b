"""Convolutions whose kernels are an example's own, where devices share the examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpjax
from dpjax import _convolutions

DEVICES = 2
FEW_ROUNDINGS = 1e-4
LAYOUT = ("NHWC", "HWIO", "NHWC")


def normal(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape))


def convolved(image, kernel, **options):
    return jax.lax.conv_general_dilated(
        image[None], kernel, (1, 1), "SAME", dimension_numbers=LAYOUT, **options
    )[0]


def plain(params, x):
    return jnp.sum(jnp.tanh(convolved(x, params)))


def of_own_groups(params, x):
    kernel = params.transpose(0, 1, 3, 2)
    return jnp.sum(jnp.tanh(convolved(x, kernel, feature_group_count=2)))


def in_a_loop(params, x):
    def step(h, _):
        return jnp.tanh(convolved(h, params)), None

    return jnp.sum(jax.lax.scan(step, x, None, length=2)[0])


def in_a_branch(params, x):
    return jax.lax.cond(jnp.sum(x) > 0, plain, lambda p, x: 2 * plain(p, x), params, x)


def computed_again(params, x):
    return jax.checkpoint(plain)(params, x)


LOSSES = {
    "plain": (plain, (3, 3, 2, 3)),
    "groups": (of_own_groups, (3, 3, 4, 1)),
    "loop": (in_a_loop, (3, 3, 2, 2)),
    "branch": (in_a_branch, (3, 3, 2, 3)),
    "remat": (computed_again, (3, 3, 2, 3)),
}

PER_EXAMPLE = {
    "per_example_grad": dpjax.per_example_grad,
    "vmap engine": lambda loss: (
        lambda params, x: (
            dpjax.clipped_grad(loss, 1.0, engine="vmap")(
                params, x
            ).per_example.grad_norm
        )
    ),
}


@pytest.mark.parametrize("axis_type", list(jax.sharding.AxisType)[:2])
@pytest.mark.parametrize("make", PER_EXAMPLE.values(), ids=PER_EXAMPLE)
@pytest.mark.parametrize("name", LOSSES)
def test_no_device_loses_a_gradient(name, make, axis_type):
    loss, shape = LOSSES[name]
    params, x = normal(*shape), normal(2 * DEVICES, 5, 5, 2)
    function = jax.jit(make(loss))
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(axis_type,))
    shared = jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))
    whole = jax.device_put(params, jax.NamedSharding(mesh, jax.P()))
    found, expected = function(whole, shared), function(params, x)
    assert np.all(np.any(np.reshape(expected, (len(x), -1)), axis=1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=FEW_ROUNDINGS)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"feature_group_count": 2},
        {"batch_group_count": 2},
        {"rhs_dilation": (2,), "lhs_dilation": (3,), "padding": ((2, 0),)},
    ],
)
@pytest.mark.parametrize("result", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1)])
def test_the_function_stays_the_same(result, options):
    settings = {"window_strides": (2,), "padding": "VALID", **options}
    numbers = jax.lax.ConvDimensionNumbers((2, 0, 1), (1, 2, 0), result)
    groups = settings.get("feature_group_count", 1)
    function = functools.partial(
        jax.lax.conv_general_dilated, dimension_numbers=numbers, **settings
    )
    # Axes of the input: features, positions, batch; of the kernel: window, out, in.
    arguments = normal(groups, 9, 4), normal(3, 6, 1)
    closed = jax.make_jaxpr(function)(*arguments)
    ordered = closed.replace(jaxpr=_convolutions.in_order(closed.jaxpr))
    np.testing.assert_array_equal(
        jax.extend.core.jaxpr_as_fun(ordered)(*arguments)[0], function(*arguments)
    )
    specs = [
        eqn.params["dimension_numbers"]
        for eqn in ordered.jaxpr.eqns
        if eqn.primitive.name == "conv_general_dilated"
    ]
    assert [spec.lhs_spec == spec.out_spec for spec in specs] == [True]
