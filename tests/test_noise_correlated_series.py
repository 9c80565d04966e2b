import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg

from dpjax.noise.correlated import series

COEFFICIENTS = st.lists(st.floats(-1, 1), min_size=0, max_size=8)


@given(COEFFICIENTS, COEFFICIENTS, st.integers(1, 12))
def test_the_product_of_series_is_that_of_their_matrices(a, b, length):
    a, b = np.array([1.0, *a]), np.array([0.5, *b])
    matrices = [series.lower_triangular(series.padded(s, length)) for s in (a, b)]
    expected = matrices[0] @ matrices[1]
    np.testing.assert_allclose(
        series.lower_triangular(series.product(a, b, length)), expected, atol=1e-14
    )


@given(COEFFICIENTS, st.integers(1, 12))
def test_the_inverse_of_a_series_is_that_of_its_matrix(a, length):
    a = np.array([2.0, *a])
    matrix = series.lower_triangular(series.padded(a, length))
    expected = linalg.solve_triangular(matrix, np.eye(length), lower=True)
    found = series.lower_triangular(series.inverse(a, length))
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("length", [64, 65, 129, 1000, 30_000])
def test_newtons_iteration_finds_the_inverse_of_a_long_series(length):
    # (1 - x)^(-1/2) and (1 - x)^(1/2), whose terms are r_i and -r_i / (2 i - 1).
    root = series.inverse_root(1.0, length)
    expected = -root / (2 * np.arange(length) - 1)
    np.testing.assert_allclose(series.inverse(root, length), expected, atol=1e-14)


@pytest.mark.parametrize("length", [5, 500])
def test_long_products_are_convolutions(length):
    a, b = np.random.default_rng(0).normal(size=(2, length))
    expected = np.convolve(a, b)[:length]
    np.testing.assert_allclose(series.product(a, b, length), expected, atol=1e-11)


def test_the_inverse_root_squared_is_the_geometric_series():
    root = series.inverse_root(0.9, 50)
    np.testing.assert_allclose(
        series.product(root, root, 50), series.powers(0.9, 50), rtol=1e-12
    )
