"""Masses of two output laws between neighbouring outputs."""

import numpy as np
import pytest
from scipy import stats

from dpjax.accounting.laws import cells


def test_masses_keep_their_digits_in_both_tails():
    edges = np.array([-np.inf, -30.0, -29.0, 0.0, 29.0, 30.0, np.inf])
    masses = cells.cell_masses(edges)
    near = stats.norm.sf(29) - stats.norm.sf(30)
    expected = [stats.norm.sf(30), near, 0.5, 0.5, near, stats.norm.sf(30)]
    assert masses == pytest.approx(expected, rel=1e-13)
