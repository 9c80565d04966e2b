import numpy as np
import pytest
from correlated_cases import banded

from dpjax.noise.correlated import Banded


def test_columns_stand_below_the_diagonal():
    strategy = banded(steps=6, bands=3)
    matrix = strategy.matrix(6)
    for j, column in enumerate(strategy.columns):
        expected = np.zeros(9)
        expected[j : j + 3] = column
        np.testing.assert_array_equal(matrix[:, j], expected[:6])


def test_fewer_steps_are_the_leading_part():
    strategy = banded(steps=9, bands=4)
    np.testing.assert_array_equal(strategy.matrix(3), strategy.matrix(9)[:3, :3])


def test_its_text_is_short():
    assert repr(banded(steps=900, bands=4)) == "Banded(<900 columns of 4>)"


@pytest.mark.parametrize(
    "columns",
    [
        (),
        ((1.0, 0.5),),
        ((0.0,), (1.0,)),
        ((1.0, 0.5), (1.0, 0.5)),
        ((1.0, np.nan), (1.0, 0.0)),
    ],
    ids=["none", "more bands than steps", "no diagonal", "below the last row", "nan"],
)
def test_columns_that_are_none_are_refused(columns):
    with pytest.raises(ValueError, match="columns"):
        Banded(columns)
