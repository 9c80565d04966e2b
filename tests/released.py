"""What the tests of private optimizers share: gradients, and a look at the noise."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from dpjax import noise

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 15).reshape(5, 3), "b": jnp.zeros(3)}
"""Parameters of a linear model from 5 features to 3 outputs."""

BATCH_SIZE = 7


def loss_fn(params, x, y):
    """Return the squared error of one example, x (5,) and y (3,)."""
    return jnp.sum((x @ params["w"] + params["b"] - y) ** 2)


def examples(batch_size=BATCH_SIZE, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(batch_size, 5)).astype(np.float32)
    y = generator.normal(size=(batch_size, 3)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(y)


def per_example_gradients(params=PARAMS, batch=None):
    batch = examples() if batch is None else batch
    return jax.vmap(jax.grad(loss_fn), in_axes=(None, 0, 0))(params, *batch)


def normal_rows(params, batch_size=BATCH_SIZE, seed=0):
    """Return gradients (batch, ...) of about norm one each, in the dtypes of params."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(
            generator.normal(size=(batch_size, *leaf.shape)) / np.sqrt(leaf.size),
            leaf.dtype,
        ),
        params,
    )


def flat(tree):
    leaves = [np.asarray(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.ravel() for leaf in leaves])


def unit_noise(state, like):
    """Return the standard normal that a private state's next step is made of."""
    return flat(noise.gaussian_noise(state.key, state.step, like, 1.0))


def p_value(values, stddev):
    """Test values against N(0, stddev^2) by Kolmogorov and Smirnov."""
    return stats.kstest(values / stddev, "norm").pvalue


def assert_normal(values, stddev):
    """Accept N(0, stddev^2), and show that 2/3 and 3/2 of it would be rejected."""
    assert values.size >= 1_000
    assert p_value(values, stddev) > 1e-3
    assert p_value(values, stddev * 2 / 3) < 1e-6
    assert p_value(values, stddev * 3 / 2) < 1e-6
    # The standard error of a standard deviation is stddev / sqrt(2 size).
    assert abs(values.std() / stddev - 1) < 5 / np.sqrt(2 * values.size)
