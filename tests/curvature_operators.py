"""Operators whose spectrum is known, for the tests of what is computed with them."""

import dp_accounting
import jax.numpy as jnp
import numpy as np
import scipy.stats

from dpjax.curvature.matvec import MatVec


def product(vector, matrix):
    return matrix @ vector


def on_host(vector, matrix):
    return jnp.asarray(np.asarray(matrix) @ np.asarray(vector))


def dense(matrix, *, traceable=True):
    """Return a matrix as an operator on public data."""
    function = product if traceable else on_host
    event = dp_accounting.NoOpDpEvent()
    return MatVec(function, (jnp.asarray(matrix),), event, traceable)


def rotated(eigenvalues, seed=0):
    """Return a symmetric matrix with given eigenvalues and random eigenvectors."""
    size = len(eigenvalues)
    basis = scipy.stats.ortho_group.rvs(size, random_state=seed)
    matrix = (basis * np.asarray(eigenvalues, float)) @ basis.T
    return (matrix + matrix.T) / 2


def marchenko_pastur(size=400, samples=800):
    """Return the covariance of white noise; its spectrum is known in the limit."""
    data = np.random.default_rng(0).normal(size=(samples, size))
    return (data.T @ data / samples).astype(np.float32)
