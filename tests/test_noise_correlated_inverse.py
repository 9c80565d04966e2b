import math

import numpy as np
import pytest

from dpjax.noise.correlated import (
    BandedInverse,
    Cyclic,
    Identity,
    banded_inverse_square_root,
    rmse,
    sensitivity,
    square_root,
)


def test_inverse_square_root_coefficients_are_those_of_the_root_of_one_minus_x():
    expected = [1, *(-math.comb(2 * i, i) / 4**i / (2 * i - 1) for i in range(1, 12))]
    found = banded_inverse_square_root(12).inverse_coefficients
    np.testing.assert_allclose(found, expected, rtol=6e-8)


def test_with_as_many_bands_as_steps_it_is_the_square_root():
    found = banded_inverse_square_root(20).coefficients(20)
    np.testing.assert_allclose(found, square_root(20).coefficients(20), rtol=1e-6)


@pytest.mark.parametrize("bands", [1, 2, 3, 8, 50, 100])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_coefficients_of_the_strategy_fall_however_long_they_are(bands, momentum):
    # What makes its sensitivity known exactly: see Kalinin et al. 2025.
    strategy = banded_inverse_square_root(bands, momentum=momentum)
    column = strategy.coefficients(20_000)
    assert column[-1] >= 0
    assert np.all(np.diff(column) <= 0)
    assert sensitivity(strategy, 20_000, Cyclic(500)).exact


def test_few_bands_do_better_than_none_and_all_where_examples_come_back():
    errors = [
        rmse(strategy, 1000, Cyclic(100))
        for strategy in (banded_inverse_square_root(20), Identity(), square_root(1000))
    ]
    assert errors[0] < min(errors[1:])


@pytest.mark.parametrize("coefficients", [(), (0.0, 1.0), (1.0, math.nan)])
def test_coefficients_that_have_no_inverse_are_refused(coefficients):
    with pytest.raises(ValueError, match="inverse_coefficients"):
        BandedInverse(coefficients)
