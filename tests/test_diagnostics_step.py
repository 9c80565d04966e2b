"""What a step's clipped gradients say for free."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diagnosed import clipped, examples, linear

from dpjax.clipping import ClippedGrads, summed_grad
from dpjax.curvature import Private, Public
from dpjax.diagnostics import fraction_clipped, signal_to_noise

X = jnp.array([[3.0, 4.0], [0.3, 0.4], [0.0, 6.0], [1.0, 1.0]])
"""Gradients of length 5, 0.5, 6 and 1.4 of the linear loss."""


def grads(x=X, clip=2.0, mask=None):
    return clipped(linear, jnp.zeros(x.shape[1]), x, clip, mask)


@pytest.mark.parametrize(
    ("clip", "expected"), [(0.1, 1.0), (1.0, 0.75), (2.0, 0.5), (7.0, 0.0)]
)
def test_fraction_clipped_counts_the_gradients_beyond_the_clip_norm(clip, expected):
    assert fraction_clipped(Public(grads(clip=clip))).value == expected


def test_fraction_clipped_leaves_out_padding_and_what_is_not_finite():
    x = X.at[3].set(jnp.nan)
    mask = jnp.array([True, True, False, True])
    masked = grads(x, mask=mask)
    assert fraction_clipped(Public(masked), mask=mask).value == 0.5
    assert fraction_clipped(Public(grads(x))).value == np.float32(2 / 3)
    nobody = jnp.zeros(4, bool)
    none = fraction_clipped(Public(grads(mask=nobody)), mask=nobody)
    assert np.isnan(none.value)


def test_signal_to_noise_is_the_length_of_the_sum_over_that_of_the_noise():
    x = examples(7, size=9)
    gradients = np.asarray(x, float)
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    total = (gradients * np.minimum(1, 2.0 / norms)).sum(axis=0)
    expected = np.linalg.norm(total) / (1.1 * 2.0 * 3)
    measured = signal_to_noise(Public(grads(x)), 1.1)
    np.testing.assert_allclose(measured.value, expected, rtol=1e-5)


def test_signal_to_noise_is_measured_against_noise_as_it_is_drawn():
    measured = signal_to_noise(Public(grads()), 1.5).value
    noise = 1.5 * 2.0 * np.random.default_rng(0).normal(size=(4000, 2))
    length = np.linalg.norm(np.asarray(grads().sum))
    # The mean square length of the noise has the relative standard error 1 / sqrt(n).
    drawn = length / np.sqrt(np.mean(np.sum(noise**2, axis=1)))
    assert abs(measured / drawn - 1) < 5 / np.sqrt(4000) / 2


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_signal_to_noise_does_not_depend_on_the_unit_even_of_extreme_sums(scale):
    total = {"w": scale * jnp.array([3.0, 0.0, 0.0]), "b": jnp.float32(4 * scale)}
    sums = ClippedGrads(total, None, scale, 9)
    # Of length 5, in noise of length 2 * 0.5.
    np.testing.assert_allclose(signal_to_noise(Public(sums), 0.5).value, 5, rtol=1e-6)


def test_signal_to_noise_without_noise_is_infinite():
    assert signal_to_noise(Public(grads()), 0.0).value == np.inf


@pytest.mark.parametrize(
    ("source", "event"),
    [
        (Public, dp_accounting.NoOpDpEvent()),
        (Private, dp_accounting.NonPrivateDpEvent()),
    ],
)
def test_event_is_that_of_an_exact_look_at_the_source(source, event):
    assert fraction_clipped(source(grads())).event == event
    assert signal_to_noise(source(grads()), 1.0).event == event


def test_numbers_are_the_same_under_jit():
    @jax.jit
    def run(x, noise_multiplier):
        found = Private(grads(x))
        return fraction_clipped(found), signal_to_noise(found, noise_multiplier)

    fraction, ratio = run(X, 1.5)
    assert fraction.value == fraction_clipped(Private(grads())).value
    assert fraction.event == ratio.event == dp_accounting.NonPrivateDpEvent()
    expected = signal_to_noise(Private(grads()), 1.5).value
    np.testing.assert_allclose(ratio.value, expected, rtol=1e-6)


@pytest.mark.parametrize("wrong", [grads(), None, Public(X)])
def test_what_is_no_sourced_clipped_gradient_is_refused(wrong):
    for function in (fraction_clipped, lambda found: signal_to_noise(found, 1.0)):
        with pytest.raises(TypeError, match="Expected"):
            function(wrong)


def test_gradients_without_norms_are_refused():
    for bare in (grads().without_per_example(), summed_grad(linear)(jnp.zeros(2), X)):
        with pytest.raises(ValueError, match="norms"):
            fraction_clipped(Public(bare))


def test_mask_must_be_the_one_that_the_gradients_were_clipped_with():
    mask = jnp.ones(4, bool)
    with pytest.raises(ValueError, match="mask"):
        fraction_clipped(Public(grads(mask=mask)))
    with pytest.raises(ValueError, match="mask"):
        fraction_clipped(Public(grads()), mask=mask)


def test_negative_noise_multiplier_is_refused():
    with pytest.raises(ValueError, match="noise_multiplier"):
        signal_to_noise(Public(grads()), -1.0)
