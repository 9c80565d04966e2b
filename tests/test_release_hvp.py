"""A private Hessian-vector product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from releases import quadratic

from dpjax.curvature import Private
from dpjax.release import private_hvp


def loss(params, x, y):
    hidden = jnp.tanh(x @ params["w"] + params["b"])
    return (hidden @ params["out"] - y) ** 2


def tree(seed):
    generator = np.random.default_rng(seed)
    shapes = {"w": (4, 3), "b": (3,), "out": (3,)}
    return {
        name: jnp.asarray(generator.normal(size=shape), jnp.float32)
        for name, shape in shapes.items()
    }


def data(batch_size=7):
    generator = np.random.default_rng(9)
    x = generator.normal(size=(batch_size, 4))
    return jnp.asarray(x, jnp.float32), jnp.asarray(x[:, 0] - 1, jnp.float32)


def released(clip=1e4, params=None, noise_multiplier=0.0, **options):
    return private_hvp(
        loss,
        tree(0) if params is None else params,
        Private(data()),
        tree(1),
        l2_norm_clip=clip,
        noise_multiplier=noise_multiplier,
        key=0,
        **options,
    )


def products():
    """Return each example's Hessian times the vector, dense, (batch, 18), float64."""
    point, unravel = jax.flatten_util.ravel_pytree(tree(0))
    vector, _ = jax.flatten_util.ravel_pytree(tree(1))
    hessians = jax.vmap(
        jax.hessian(lambda flat, x, y: loss(unravel(flat), x, y)), (None, 0, 0)
    )(point, *data())
    return np.asarray(hessians, float) @ np.asarray(vector, float)


def flat(released):
    return np.asarray(jax.flatten_util.ravel_pytree(released.value)[0], float)


def test_without_noise_and_clipping_it_is_the_hessian_times_the_vector():
    np.testing.assert_allclose(
        flat(released()), products().mean(axis=0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("clip", [0.5, 5.0])
def test_examples_are_clipped_one_by_one(clip):
    rows = products()
    factors = np.minimum(1, clip / np.linalg.norm(rows, axis=1, keepdims=True))
    assert (factors < 1).any()
    np.testing.assert_allclose(
        flat(released(clip)), (rows * factors).mean(axis=0), rtol=1e-3, atol=1e-5
    )


def test_value_and_noise_have_the_shape_of_the_parameters():
    found = released(1.0, noise_multiplier=1.0)
    shapes = jax.tree.map(jnp.shape, found.value)
    assert shapes == jax.tree.map(jnp.shape, tree(0))
    np.testing.assert_allclose(found.stderr, 1 / 7, rtol=1e-6)


def test_parameters_in_half_precision_are_worked_in_float32():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree(0))
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    found, expected = released(params=half), released(params=wide)
    assert {leaf.dtype for leaf in jax.tree.leaves(found.value)} == {
        jnp.dtype("float32")
    }
    np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-5, atol=1e-6)


def test_private_power_iteration_finds_the_top_eigenvalue():
    x = jnp.tile(jnp.array([9.0, 3.0, 1.0]), (4000, 1))
    vector = jnp.ones(3) / jnp.sqrt(3.0)
    for key in range(8):
        product = private_hvp(
            quadratic,
            jnp.zeros(3),
            Private(x),
            vector,
            l2_norm_clip=10.0,
            noise_multiplier=1.0,
            key=key,
        )
        value = jnp.linalg.norm(product.value)
        vector = product.value / value
    assert abs(value - 9) < 5 * product.stderr


def test_vector_must_have_the_shape_of_the_parameters():
    options = {"l2_norm_clip": 1.0, "noise_multiplier": 1.0, "key": 0}
    with pytest.raises(ValueError, match=r"vector\.shape"):
        private_hvp(
            quadratic, jnp.zeros(3), Private(jnp.ones((2, 3))), jnp.ones(2), **options
        )
    with pytest.raises(TypeError, match="params"):
        private_hvp(
            quadratic,
            jnp.arange(3),
            Private(jnp.ones((2, 3))),
            jnp.arange(3),
            **options,
        )


def test_loss_that_is_no_scalar_is_refused():
    with pytest.raises(ValueError, match="scalar"):
        private_hvp(
            lambda w, x: w * x,
            jnp.zeros(3),
            Private(jnp.ones((2, 3))),
            jnp.ones(3),
            l2_norm_clip=1.0,
            noise_multiplier=1.0,
            key=0,
        )


def test_what_calls_a_compiled_function_passes_the_checks_of_jax():
    called = jax.jit(lambda params, x: jnp.sum((params - x) ** 2))
    params, x = jnp.zeros(3), jnp.ones((2, 3))
    with jax.enable_checks(True):
        found = private_hvp(
            lambda params, x: called(params, x),
            params,
            Private(x),
            jnp.ones(3),
            l2_norm_clip=10.0,
            noise_multiplier=0.0,
            key=0,
        )
    np.testing.assert_allclose(found.value, 2 * np.ones(3), rtol=1e-5)
