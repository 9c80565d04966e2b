"""The curvature of each example along a direction."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import (
    BIAS,
    INPUTS,
    WEIGHTS,
    flops,
    logistic_batch,
    logistic_loss_of_weights,
    mean_loss,
    mlp_batch,
    mlp_loss,
    mlp_params,
    on_two_devices,
    sigmoid,
    vector_like,
)
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from dpjax.curvature import Private, Public
from dpjax.curvature.hessian import hessian_operator
from dpjax.curvature.per_example import per_example_curvature


def curvature(batch=None, params=None, vector=None):
    batch = Public(mlp_batch()) if batch is None else batch
    params = mlp_params() if params is None else params
    vector = vector_like(params) if vector is None else vector
    return per_example_curvature(mlp_loss, params, batch, vector)


def test_r5_of_the_logistic_loss_it_has_its_closed_form():
    with jax.enable_x64(True):
        vector = np.array([1.0, -2.0, 3.0])
        p = sigmoid(INPUTS @ WEIGHTS + BIAS)
        found = per_example_curvature(
            logistic_loss_of_weights,
            jnp.asarray(WEIGHTS),
            Public(logistic_batch()),
            jnp.asarray(vector),
        )
        expected = p * (1 - p) * (INPUTS @ vector) ** 2
        np.testing.assert_allclose(found.value, expected, rtol=1e-12)


def test_it_is_the_dense_hessian_of_each_example():
    with jax.enable_x64(True):
        params, batch = mlp_params(), mlp_batch()
        flat, unravel = ravel_pytree(params)
        hessians = jax.jit(
            jax.vmap(
                jax.hessian(lambda w, x, y: mlp_loss(unravel(w), x, y)), (None, 0, 0)
            )
        )(flat, *batch)
        v = ravel_pytree(vector_like(params))[0]
        expected = jnp.einsum("i,nij,j->n", v, hessians, v)
        np.testing.assert_allclose(curvature().value, expected, atol=1e-13)


@given(st.integers(0, 2**32 - 1))
def test_its_mean_is_the_curvature_of_the_mean_loss(seed):
    with jax.enable_x64(True):
        vector = vector_like(mlp_params(), seed)
        matvec = hessian_operator(mlp_loss, mlp_params(), Public(mlp_batch()))
        whole = ravel_pytree(vector)[0] @ ravel_pytree(matvec(vector))[0]
        found = curvature(vector=vector)
        np.testing.assert_allclose(np.mean(found.value), whole, atol=1e-11)


def test_it_costs_no_more_than_a_product_and_no_memory_per_parameter():
    params = mlp_params(features=100, width=200, classes=10)
    batch = mlp_batch(256, features=100, classes=10)

    def run(params, vector):
        return per_example_curvature(mlp_loss, params, Public(batch), vector).value

    gradient = jax.grad(mean_loss(mlp_loss, batch))
    assert flops(run, params, params) <= 2 * flops(gradient, params)
    compiled = jax.jit(run).lower(params, params).compile()
    per_example = 256 * ravel_pytree(params)[0].nbytes
    assert compiled.memory_analysis().temp_size_in_bytes < per_example / 10


@pytest.mark.slow
def test_jit_and_two_devices_change_nothing():
    batch = mlp_batch(8)
    plain = curvature(Public(batch)).value
    jitted = jax.jit(lambda batch: curvature(Public(batch)).value)(batch)
    two = curvature(Public(on_two_devices(batch, ["data"]))).value
    np.testing.assert_allclose(jitted, plain, rtol=1e-5)
    np.testing.assert_allclose(two, plain, rtol=1e-5)
    assert len(two.sharding.device_set) == 2


@pytest.mark.slow
def test_parameters_in_low_precision_are_cast_up():
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), mlp_params())
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), low)
    vector = vector_like(mlp_params())
    value = curvature(params=low, vector=vector).value
    assert value.dtype == jnp.float32
    expected = curvature(params=wide, vector=vector).value
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_only_the_example_that_is_not_finite_is_nan():
    x, labels = mlp_batch()
    found = curvature(Public((x.at[2, 0].set(np.nan), labels)))
    np.testing.assert_array_equal(np.isnan(found.value), np.arange(6) == 2)


def test_the_event_is_that_of_the_batch():
    assert curvature().event == dp_accounting.NoOpDpEvent()
    private = curvature(Private(mlp_batch()))
    assert private.event == dp_accounting.NonPrivateDpEvent()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch": mlp_batch}, TypeError, "Public"),
        ({"params": jnp.arange(3)}, TypeError, "floating-point"),
        ({"vector": jnp.ones(3)}, ValueError, "structure"),
    ],
)
def test_what_cannot_be_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        curvature(**options)


def test_a_loss_that_is_differentiated_backward_only_gives_the_same():
    @jax.custom_vjp
    def cosine(x):
        return jnp.cos(x)

    cosine.defvjp(lambda x: (jnp.cos(x), x), lambda x, g: (-g * jnp.sin(x),))
    params, batch = jnp.arange(3.0), Public(jnp.eye(3))
    found, expected = (
        per_example_curvature(
            lambda w, x, function=function: function(jnp.vdot(w, x)),
            params,
            batch,
            jnp.ones(3),
        )
        for function in (cosine, jnp.cos)
    )
    np.testing.assert_allclose(expected.value, -np.cos(np.arange(3.0)), rtol=1e-6)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-6)
