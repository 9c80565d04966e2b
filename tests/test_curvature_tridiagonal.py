"""Eigenvalues of small tridiagonal matrices, on the host and under jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from dpjax.curvature import tridiagonal

DIAGONAL = np.array([[2.0, -1.0, 3.0, 0.5], [1.0, 1.0, 1.0, 1.0]], np.float32)
OFF_DIAGONAL = np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]], np.float32)
WAYS = pytest.mark.parametrize(
    "eigh", [tridiagonal.eigh, jax.jit(tridiagonal.eigh)], ids=["host", "traced"]
)


@WAYS
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_a_second_library_gives_the_same(eigh, scale):
    scale = np.float32(scale)
    values, rotation = eigh(
        jnp.asarray(scale * DIAGONAL), jnp.asarray(scale * OFF_DIAGONAL)
    )
    for row in range(2):
        want = scipy.linalg.eigh_tridiagonal(
            DIAGONAL[row].astype(float), OFF_DIAGONAL[row].astype(float)
        )[0]
        np.testing.assert_allclose(values[row] / scale, want, atol=2e-6)
        columns = np.asarray(rotation[row])
        np.testing.assert_allclose(columns.T @ columns, np.eye(4), atol=2e-6)


@WAYS
def test_zero_is_no_trouble(eigh):
    values, _ = eigh(jnp.zeros(3), jnp.zeros(2))
    np.testing.assert_array_equal(values, np.zeros(3))


@WAYS
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_only_the_matrix_that_is_not_finite_becomes_nan(eigh, bad):
    diagonal = DIAGONAL.copy()
    diagonal[1, 2] = bad
    values, rotation = eigh(jnp.asarray(diagonal), jnp.asarray(OFF_DIAGONAL))
    assert np.isnan(values[1]).all()
    assert np.isnan(rotation[1]).all()
    assert np.isfinite(values[0]).all()


@WAYS
def test_one_row_is_its_own_eigenvalue(eigh):
    values, rotation = eigh(jnp.array([4.0]), jnp.zeros(0))
    np.testing.assert_allclose(values, [4.0], rtol=1e-6)
    np.testing.assert_allclose(abs(rotation), [[1.0]], rtol=1e-6)
