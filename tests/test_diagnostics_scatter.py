"""How much the gradients of examples differ."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diagnosed import clipped, examples, linear, params, quadratic, rows

from dpjax.curvature import Private, Public
from dpjax.diagnostics import gradient_noise


def found(x, source=Public, mask=None):
    grads = clipped(quadratic, params(), x, mask=mask)
    return gradient_noise(quadratic, params(), source(x), grads, mask=mask)


def test_numbers_are_the_sample_covariance_and_the_corrected_mean():
    raw = rows(params(), examples(7))
    covariance = np.trace(np.cov(raw.T))
    squared = np.sum(raw.mean(axis=0) ** 2) - covariance / 7
    noise = found(examples(7))
    np.testing.assert_allclose(noise.covariance_trace, covariance, rtol=1e-4)
    np.testing.assert_allclose(noise.squared_gradient, squared, rtol=1e-4)


def test_both_numbers_are_unbiased():
    mean, spread, batch_size, batches = np.array([0.5, 0, 0]), [1.0, 2, 0.5], 5, 6000
    draws = np.random.default_rng(3).normal(size=(batches, batch_size, 3))
    x = jnp.asarray(mean + draws * spread, jnp.float32)

    def both(x):
        grads = clipped(linear, jnp.zeros(3), x, 1.0)
        noise = gradient_noise(linear, jnp.zeros(3), Public(x), grads)
        return noise.covariance_trace, noise.squared_gradient

    covariance, squared = map(np.asarray, jax.jit(jax.vmap(both))(x))
    for values, truth in ((covariance, 1.0 + 4 + 0.25), (squared, 0.25)):
        standard_error = values.std() / np.sqrt(batches)
        assert abs(values.mean() - truth) < 4 * standard_error
    # Not so the squared length of the mean gradient itself.
    naive = squared + covariance / batch_size
    assert naive.mean() - 0.25 > 20 * naive.std() / np.sqrt(batches)


def test_equal_gradients_have_no_noise():
    noise = found(jnp.tile(examples(1), (4, 1)))
    squared = np.sum(rows(params(), examples(1)) ** 2)
    np.testing.assert_allclose(noise.covariance_trace, 0, atol=1e-5 * squared)
    np.testing.assert_allclose(noise.squared_gradient, squared, rtol=1e-5)


def test_squared_gradient_may_be_negative():
    grads = clipped(linear, jnp.zeros(1), x := jnp.array([[1.0], [-1.0]]))
    noise = gradient_noise(linear, jnp.zeros(1), Public(x), grads)
    np.testing.assert_allclose(noise.covariance_trace, 2)
    np.testing.assert_allclose(noise.squared_gradient, -1)


def test_clip_norm_does_not_matter():
    x = examples()
    few, many = (
        gradient_noise(
            quadratic, params(), Public(x), clipped(quadratic, params(), x, clip)
        )
        for clip in (1e-3, 1e3)
    )
    np.testing.assert_allclose(few.covariance_trace, many.covariance_trace, rtol=1e-5)
    np.testing.assert_allclose(few.squared_gradient, many.squared_gradient, rtol=1e-5)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_padding_and_examples_that_are_not_finite_are_left_out(broken):
    x = examples(8)
    expected = found(x[1:7])
    mask = jnp.arange(8) < 7
    noise = found(x.at[0].set(broken).at[7].set(9.0), mask=mask)
    np.testing.assert_allclose(
        noise.covariance_trace, expected.covariance_trace, rtol=1e-4
    )
    np.testing.assert_allclose(
        noise.squared_gradient, expected.squared_gradient, rtol=1e-4
    )


@pytest.mark.parametrize("kept", [0, 1])
def test_fewer_than_two_examples_have_no_covariance(kept):
    noise = found(examples(3), mask=jnp.arange(3) < kept)
    assert np.isnan(noise.covariance_trace)
    assert np.isnan(noise.squared_gradient)


@pytest.mark.parametrize(
    ("source", "event"),
    [
        (Public, dp_accounting.NoOpDpEvent()),
        (Private, dp_accounting.NonPrivateDpEvent()),
    ],
)
def test_noise_is_the_same_under_jit_and_keeps_the_event_of_its_source(source, event):
    eager = found(examples(), source)
    compiled = jax.jit(lambda x: found(x, source))(examples())
    assert eager.event == compiled.event == event
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), eager, compiled
    )
