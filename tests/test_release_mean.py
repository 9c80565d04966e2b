"""The private mean of any function of one example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from releases import halves, of_example

from dpjax.curvature import Private
from dpjax.release import private_mean

X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)


def exact(function, batch, l2_norm_clip=1e3, params=None, **options):
    options = {"noise_multiplier": 0.0, "key": 0} | options
    return private_mean(
        function, params, Private(batch), l2_norm_clip=l2_norm_clip, **options
    )


def test_without_noise_and_clipping_it_is_the_mean():
    np.testing.assert_allclose(exact(of_example, X).value, X.mean(axis=0), rtol=1e-5)


def test_examples_are_clipped_one_by_one_as_whole_pytrees():
    released = exact(halves, X, 0.8, jnp.float32(3.0))
    whole = np.concatenate([3 * X[:, :2], X[:, 2:]], axis=1).astype(float)
    factors = np.minimum(1, 0.8 / np.linalg.norm(whole, axis=1, keepdims=True))
    expected = (whole * factors).mean(axis=0)
    np.testing.assert_allclose(released.value["a"], expected[:2], rtol=1e-5)
    np.testing.assert_allclose(released.value["b"], expected[2:], rtol=1e-5)


def test_parts_may_have_clip_norms_of_their_own():
    released = private_mean(
        halves,
        jnp.float32(1.0),
        Private(X),
        l2_norm_clip={"a": 3.0, "b": 4.0},
        noise_multiplier=2.0,
        key=0,
    )
    # The sensitivity is 5; noise is the same in all entries.
    np.testing.assert_allclose(released.stderr, 2 * 5 / 6, rtol=1e-6)


def test_batch_of_several_arguments_is_spread():
    def product(params, x, y):
        return params * x * y

    released = exact(product, (X, 2 * X), params=0.5)
    np.testing.assert_allclose(released.value, (X**2).mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [("float16", "float32"), ("bfloat16", "float32"), ("float64", "float64")],
)
def test_result_is_float32_at_least(dtype, wide):
    with jax.enable_x64(dtype == "float64"):
        released = exact(of_example, X.astype(dtype), noise_multiplier=1.0)
        assert released.value.dtype == wide


def test_scalar_result_is_released_as_a_scalar():
    released = exact(lambda _, x: x.sum(), X)
    np.testing.assert_allclose(released.value, X.sum(axis=1).mean(), rtol=1e-4)
    assert released.value.shape == ()


def test_function_may_be_a_partial_that_holds_arrays():
    function = jax.tree_util.Partial(lambda scale, _, x: scale * x, jnp.float32(2.0))
    np.testing.assert_allclose(exact(function, X).value, 2 * X.mean(axis=0), rtol=1e-5)


def test_results_that_are_not_floating_point_are_refused():
    with pytest.raises(TypeError, match="floating-point"):
        exact(lambda _, x: x[0] > 0, X)
    with pytest.raises(ValueError, match="at least one array"):
        exact(lambda _, x: (), X)


@pytest.mark.parametrize("clip", [0.0, -1.0, np.inf, np.nan])
def test_clip_norm_must_be_positive_and_finite(clip):
    with pytest.raises(ValueError, match="l2_norm_clip"):
        exact(of_example, X, clip)


def test_leading_axes_must_agree():
    with pytest.raises(ValueError, match="leading batch axis"):
        exact(lambda _, x, y: x, (X, X[:3]))


def test_noise_goes_away_with_the_number_of_examples():
    released = exact(of_example, jnp.tile(X, (500, 1)), 5.0, noise_multiplier=1.0)
    np.testing.assert_allclose(
        released.value, X.mean(axis=0), atol=5 * float(released.stderr)
    )
    np.testing.assert_allclose(released.stderr, 5 / 3000, rtol=1e-6)
