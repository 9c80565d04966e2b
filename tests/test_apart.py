"""A function of each example, and what one example can do to the others: nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import dpjax
from dpjax import _apart
from dpjax.clipping import rules
from dpjax.optimizers.rounded_grad import rounded_grad
from dpjax.release import core

BAD = 2
KERNEL = jnp.full((8, 2, 3, 3), 0.1)


def grouped(kernel, x, scale):
    """Return a loss with a convolution with groups."""
    y = lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME", feature_group_count=2)
    return jnp.sum(jnp.tanh(y[0]) * scale)


def hostile_batch():
    """Return a batch with one example whose derivative is not finite."""
    x = jax.random.normal(jax.random.key(0), (4, 4, 14, 14))
    return x, jnp.ones((4, 8, 14, 14)).at[BAD, 0, 3, 3].set(jnp.nan)


def without_it(batch):
    return jax.tree.map(lambda leaf: jnp.delete(leaf, BAD, axis=0), batch)


def released_sum(batch):
    gradient = jax.tree_util.Partial(jax.grad(grouped), KERNEL)
    return core.clipped_rows(gradient, batch, None, rules.as_rule(1.0)).sum


def rounded_sum(batch):
    return rounded_grad(grouped, 1.0, 2.0**-20, engine="vmap")(KERNEL, *batch).sum


def clipped_sum(batch):
    return dpjax.clipped_grad(grouped, 1.0, engine="vmap")(KERNEL, *batch).sum


@pytest.mark.parametrize("sum_of", [released_sum, rounded_sum, clipped_sum])
def test_an_example_that_is_not_finite_moves_no_other(sum_of):
    batch = hostile_batch()
    got, want = sum_of(batch), sum_of(without_it(batch))
    assert np.linalg.norm(want) > 0.5
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_it_is_vmap():
    def function(x, y):
        return {"a": x * y, "b": (jnp.sum(y), None)}

    args = (jnp.arange(3.0), jnp.arange(6.0).reshape(3, 2))
    got, want = _apart.mapped(function, *args), jax.vmap(function)(*args)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_only_the_examples_that_are_not_finite_are_so():
    gradient = jax.grad(grouped)
    batch = hostile_batch()
    found = jax.jit(
        lambda *batch: _apart.mapped(lambda *e: gradient(KERNEL, *e), *batch)
    )
    finite = np.isfinite(found(*batch)).reshape(4, -1).all(axis=1)
    np.testing.assert_array_equal(finite, np.arange(4) != BAD)


def test_an_empty_batch_is_taken():
    found = _apart.mapped(
        lambda x, s: grouped(KERNEL, x, s), *(leaf[:0] for leaf in hostile_batch())
    )
    assert found.shape == (0,)


def conv(x, kernel):
    return lax.conv(x[None], kernel, (1, 1), "SAME")


WIDE_LOSSES = {
    "a kernel": lambda w, x, k: jnp.sum(conv(x, w * jnp.ones((2, 1, 3, 3))) ** 2),
    "inputs": lambda w, x, k: jnp.sum(jnp.tanh(conv(x * w, k))),
    "kernels of data": lambda w, x, k: jnp.sum(jnp.tanh(conv(x, k * w))),
    "kernels in a loop": lambda w, x, k: lax.scan(
        lambda total, y: (total + jnp.sum(jnp.tanh(conv(y * w, k))), None),
        jnp.zeros(()),
        jnp.stack([x, 2 * x]),
    )[0],
    "kernels in a branch": lambda w, x, k: lax.cond(
        x[0, 0, 0] < 9, lambda: jnp.sum(jnp.tanh(conv(x * w, k))), lambda: w
    ),
}


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("a kernel", "vmap"),
        ("inputs", "bookkeeping"),
        ("kernels of data", "bookkeeping"),
        ("kernels of data", "vmap"),
        ("kernels in a loop", "bookkeeping"),
        ("kernels in a branch", "bookkeeping"),
    ],
)
def test_an_example_that_is_not_finite_moves_no_other_in_float64(name, engine):
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (4, 1, 7, 7), float)
        kernels = jax.random.normal(jax.random.key(1), (4, 1, 1, 3, 3), float)
        batch = x.at[BAD, 0, 2, 2].set(jnp.nan), kernels
        fn = dpjax.clipped_grad(WIDE_LOSSES[name], 1.0, engine=engine)
        weight = jnp.asarray(0.5, float)
        got, want = fn(weight, *batch), fn(weight, *without_it(batch))
        assert abs(want.sum) > 0.1
        np.testing.assert_allclose(got.sum, want.sum, rtol=1e-12)
        finite = np.isfinite(got.per_example.grad_norm)
        np.testing.assert_array_equal(finite, np.arange(4) != BAD)


def test_a_kernel_that_is_written_out_is_of_its_example_alone():
    def loss(kernel, x):
        y = lax.conv_general_dilated(
            jnp.stack([x, 2 * x]), kernel, (1, 1), "SAME", batch_group_count=2
        )
        return jnp.sum(jnp.tanh(y))

    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (4, 3, 7, 7), float)
        batch = (x.at[BAD, 0, 2, 2].set(jnp.inf),)
        kernel = jax.random.normal(jax.random.key(1), (2, 3, 3, 3), float)
        fn = dpjax.clipped_grad(loss, 1.0, engine="bookkeeping")
        got, want = fn(kernel, *batch).sum, fn(kernel, *without_it(batch)).sum
        assert np.linalg.norm(want) > 0.1
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
