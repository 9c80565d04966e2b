import math

import numpy as np
import pytest

from dpjax.noise.correlated import Toeplitz, series, square_root, workload


def test_square_root_coefficients_are_central_binomials():
    expected = [math.comb(2 * i, i) / 4**i for i in range(20)]
    found = square_root(20).strategy_coefficients
    np.testing.assert_allclose(found, expected, rtol=6e-8)


def test_both_factors_of_prefix_sums_are_equal():
    root = square_root(30)
    errors = root.variances(30, np.ones(30))
    np.testing.assert_allclose(errors[-1], np.sum(root.coefficients(30) ** 2), 1e-6)


def test_squared_norm_of_the_square_root_grows_as_one_plus_the_logarithm():
    # Sum over i < n of (binom(2i, i) / 4^i)^2 = (ln n + gamma + 4 ln 2) / pi + O(1/n).
    for n in (1000, 10_000):
        norm = np.sum(square_root(n).coefficients(n) ** 2)
        expected = (math.log(n) + np.euler_gamma + 4 * math.log(2)) / math.pi
        assert abs(norm - expected) < 1 / n


def test_the_square_root_of_momentum_squared_is_the_momentum_workload():
    root = square_root(25, momentum=0.9, weight_decay=0.01).coefficients(25)
    column = workload(25, momentum=0.9, weight_decay=0.01)
    np.testing.assert_allclose(series.product(root, root, 25), column, rtol=1e-6)


@pytest.mark.parametrize(
    "coefficients", [(), (0.0, 1.0), (-1.0,), (1.0, math.inf), (1e-60,)]
)
def test_coefficients_that_have_no_inverse_are_refused(coefficients):
    with pytest.raises(ValueError, match="strategy_coefficients"):
        Toeplitz(coefficients)
