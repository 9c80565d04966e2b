"""What the tests of diagnostics share: quadratic losses, whose numbers are known."""

import jax.numpy as jnp
import numpy as np

from dpjax import clipping

EIGENVALUES = np.array([10.0, 3.0, 1.0, 0.5, 0.1])


def quadratic(params, x):
    """Return (w - x)^T diag(EIGENVALUES) (w - x) / 2 of one example."""
    away = params["w"] - x
    return jnp.sum(jnp.asarray(EIGENVALUES, away.dtype) * away**2) / 2


def linear(params, x):
    """Return a loss whose gradient is the example."""
    return jnp.vdot(params, x)


def examples(batch_size=6, seed=0, size=5):
    values = np.random.default_rng(seed).normal(size=(batch_size, size))
    return jnp.asarray(values, jnp.float32)


def params(seed=1):
    return {"w": jnp.asarray(np.random.default_rng(seed).normal(size=5), jnp.float32)}


def rows(point, x):
    """Return the gradients of the quadratic losses, (batch, 5), float64."""
    return EIGENVALUES * (np.asarray(point["w"], float) - np.asarray(x, float))


def clipped_sum(gradients, clip):
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    return (gradients * np.minimum(1, clip / norms)).sum(axis=0)


def clipped(loss_fn, point, x, clip=2.0, mask=None):
    return clipping.clipped_grad(loss_fn, clip)(point, x, mask=mask)
