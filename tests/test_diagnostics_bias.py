"""How far the clipped gradient is from the gradient."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diagnosed import clipped, clipped_sum, examples, linear, params, quadratic, rows

from dpjax.curvature import Private, Public
from dpjax.diagnostics import clipping_bias


def bias(x, clip, mask=None, point=None):
    point = params() if point is None else point
    grads = clipped(quadratic, point, x, clip, mask)
    return clipping_bias(quadratic, point, Public(x), grads, mask=mask)


@pytest.mark.parametrize("clip", [0.3, 2.0, 8.0])
def test_bias_is_that_of_gradients_clipped_one_by_one(clip):
    x = examples()
    raw = rows(params(), x)
    total, mean = clipped_sum(raw, clip), raw.mean(axis=0)
    cosine = total @ mean / np.linalg.norm(total) / np.linalg.norm(mean)
    ratio = np.linalg.norm(total) / len(x) / np.linalg.norm(mean)
    found = bias(x, clip)
    np.testing.assert_allclose(found.cosine, cosine, rtol=1e-5)
    np.testing.assert_allclose(found.norm_ratio, ratio, rtol=1e-5)


def test_nothing_clipped_is_no_bias():
    found = bias(examples(), 1e3)
    np.testing.assert_allclose(found.cosine, 1, rtol=1e-6)
    np.testing.assert_allclose(found.norm_ratio, 1, rtol=1e-6)


def test_equal_gradients_are_only_shortened_by_clipping():
    x = jnp.tile(examples(1), (4, 1))
    found = bias(x, 0.5)
    length = np.linalg.norm(rows(params(), x)[0])
    np.testing.assert_allclose(found.cosine, 1, rtol=1e-6)
    np.testing.assert_allclose(found.norm_ratio, 0.5 / length, rtol=1e-5)


def test_one_long_gradient_may_turn_the_sum_around():
    x = jnp.array([[-10.0], [1.0], [1.0], [1.0]])
    grads = clipped(linear, jnp.zeros(1), x, 1.0)
    found = clipping_bias(linear, jnp.zeros(1), Public(x), grads)
    # The raw mean is -7 / 4, the clipped one 2 / 4.
    np.testing.assert_allclose(found.cosine, -1, rtol=1e-6)
    np.testing.assert_allclose(found.norm_ratio, 2 / 7, rtol=1e-5)


@pytest.mark.parametrize("broken", [np.nan, np.inf, 1e38])
def test_padding_and_examples_that_are_not_finite_are_left_out(broken):
    x = examples(8)
    mask = jnp.arange(8) < 7
    expected = bias(x[1:7], 2.0)
    found = bias(x.at[0].set(broken).at[7].set(jnp.nan), 2.0, mask)
    np.testing.assert_allclose(found.cosine, expected.cosine, rtol=1e-5)
    np.testing.assert_allclose(found.norm_ratio, expected.norm_ratio, rtol=1e-5)


def test_gradient_that_vanishes_has_no_direction():
    found = bias(jnp.tile(params()["w"], (3, 1)), 1.0)
    assert np.isnan(found.cosine)


@pytest.mark.parametrize(
    ("source", "event"),
    [
        (Public, dp_accounting.NoOpDpEvent()),
        (Private, dp_accounting.NonPrivateDpEvent()),
    ],
)
def test_bias_is_the_same_under_jit_and_keeps_the_event_of_its_source(source, event):
    def run(x):
        grads = clipped(quadratic, params(), x)
        return clipping_bias(quadratic, params(), source(x), grads)

    eager, compiled = run(examples()), jax.jit(run)(examples())
    assert eager.event == compiled.event == event
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), eager, compiled
    )


def test_new_values_do_not_compile_anew():
    traces = []

    def loss(point, x):
        traces.append(1)
        return quadratic(point, x)

    grads = clipped(quadratic, params(), examples())
    for seed in range(3):
        clipping_bias(loss, params(seed), Public(examples(seed=seed)), grads)
    assert len(traces) == 1


def test_batch_must_say_what_it_is_and_be_that_of_the_gradients():
    x = examples()
    grads = clipped(quadratic, params(), x)
    with pytest.raises(TypeError, match="Public"):
        clipping_bias(quadratic, params(), x, grads)
    with pytest.raises(TypeError, match="ClippedGrads"):
        clipping_bias(quadratic, params(), Public(x), grads.sum)
    with pytest.raises(ValueError, match="6 examples"):
        clipping_bias(quadratic, params(), Public(x[:4]), grads)
    with pytest.raises(TypeError, match="params"):
        clipping_bias(quadratic, {"w": jnp.arange(5)}, Public(x), grads)
