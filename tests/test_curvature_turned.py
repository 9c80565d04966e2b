"""Products whose factors change places: the same numbers, without transposes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend import core

from dpjax.curvature import turned


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def two_layers(x):
    def loss(params):
        hidden = jnp.tanh(x @ params["first"])
        return jnp.sum(jnp.tanh(hidden @ params["last"]) ** 2)

    return loss, {"first": draw(5, 4), "last": draw(4, 3, seed=1)}


def dense():
    return two_layers(draw(7, 5, seed=2))


def jitted():
    loss, params = dense()
    return jax.jit(loss), params


def custom_rule():
    @jax.custom_jvp
    def softplus(x):
        return jnp.log1p(jnp.exp(x))

    softplus.defjvps(lambda g, _, x: g * jax.nn.sigmoid(x))
    x = draw(7, 5, seed=2)
    return lambda w: jnp.sum(softplus(x @ w) ** 2), draw(5, 4)


def stacked():
    x = draw(3, 7, 5, seed=2)
    return lambda w: jnp.sum(jnp.tanh(lax.batch_matmul(x, w)) ** 2), draw(3, 5, 4)


def several_axes():
    x = draw(7, 2, 5, seed=2)
    return (
        lambda w: jnp.sum(jnp.tanh(jnp.einsum("bim,imjk->bjk", x, w)) ** 2),
        draw(2, 5, 3, 4),
    )


def recurrent():
    x = draw(6, 7, 4, seed=2)

    def loss(w):
        def step(h, x_t):
            return jnp.tanh(h @ w + x_t), None

        return jnp.sum(lax.scan(step, jnp.zeros((7, 4)), x)[0] ** 2)

    return loss, draw(4, 4)


def precise():
    x = draw(7, 5, seed=2)
    precision = (lax.Precision.HIGHEST, lax.Precision.DEFAULT)
    return (
        lambda w: jnp.sum(jnp.tanh(jnp.dot(x, w, precision=precision)) ** 2),
        draw(5, 4),
    )


def narrow():
    x = draw(7, 5, seed=2).astype(jnp.bfloat16)

    def loss(w):
        product = lax.dot(x, w.astype(jnp.bfloat16), preferred_element_type=jnp.float32)
        return jnp.sum(jnp.tanh(product) ** 2)

    return loss, draw(5, 4)


LOSSES = (
    *(dense, jitted, custom_rule, stacked, several_axes),
    *(recurrent, precise, narrow),
)
TURNED = (dense, jitted, custom_rule, stacked, several_axes, precise, narrow)


@pytest.mark.parametrize("make", LOSSES)
def test_gradients_and_their_derivatives_stay_the_same(make):
    loss, params = make()
    gradient = jax.grad(loss)
    function = turned.without_transposes(gradient, params)
    vector = jax.tree.map(jnp.cos, params)
    tolerance = 2e-2 if make is narrow else 1e-5
    for got, expected in zip(
        jax.jvp(function, (params,), (vector,)),
        jax.jvp(gradient, (params,), (vector,)),
        strict=True,
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance),
            got,
            expected,
        )


def transposes(function, *args):
    """Count the transposes in a jaxpr, nested ones too."""
    found, ahead = 0, [jax.make_jaxpr(function)(*args).jaxpr]
    while ahead:
        jaxpr = ahead.pop()
        found += sum(eqn.primitive.name == "transpose" for eqn in jaxpr.eqns)
        for eqn in jaxpr.eqns:
            ahead += core.jaxprs_in_params(eqn.params)
    return found


@pytest.mark.parametrize("make", TURNED)
def test_fewer_transposes_are_left_in_the_derivative_of_a_gradient(make):
    loss, params = make()
    gradient = jax.grad(loss)
    function = turned.without_transposes(gradient, params)

    def products(function):
        return lambda params: jax.jvp(function, (params,), (params,))

    # Weights themselves are still transposed where cotangents go through them.
    assert transposes(products(function), params) < transposes(
        products(gradient), params
    )


def in_scan(w):
    return lax.scan(lambda carry, row: (jnp.transpose(carry @ w), row), w, w)


def needed_both_ways(w):
    product = w @ w
    return product, product.T


def other_order(w):
    return jnp.transpose(jnp.tensordot(w, w[None], axes=(1, 1)), (1, 0, 2))


@pytest.mark.parametrize("function", [in_scan, needed_both_ways, other_order])
def test_other_products_are_left_alone(function):
    w = draw(4, 4)
    same = turned.without_transposes(function, w)
    assert transposes(same, w) == transposes(function, w) > 0
    for got, expected in zip(
        jax.tree.leaves(same(w)), jax.tree.leaves(function(w)), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_the_function_is_traced_once():
    calls = []

    def gradient(w):
        calls.append(1)
        return jnp.transpose(w @ w)

    function = turned.without_transposes(gradient, jnp.eye(3))
    for _ in range(3):
        function(jnp.eye(3))
    assert len(calls) == 1
