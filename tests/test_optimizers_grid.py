import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dpjax.optimizers.grid import (
    check_exact,
    checked_granularity,
    exact_granularity,
    rounded_sensitivity,
    usual_granularity,
)

UNIT = 2.0**-20
"""What all numbers of the laws are multiples of: their sums are exact."""


def vectors(largest):
    steps = st.integers(-int(largest / UNIT), int(largest / UNIT))
    return arrays.arrays(np.float64, 7, elements=steps.map(lambda n: n * UNIT))


def distance(a, b):
    """Return the distance of two vectors of integers, from exact squares."""
    return math.sqrt(sum(int(n) ** 2 for n in a - b))


@settings(max_examples=300, deadline=None)
@given(vectors(5.0), vectors(5.0))
def test_rounding_moves_vectors_apart_by_no_more_than_is_counted(start, move):
    norm = float(np.linalg.norm(move)) * (1 + 1e-12)
    if norm:
        moved = distance(np.rint(start + move), np.rint(start))
        assert moved <= rounded_sensitivity(norm, 1.0, 7)
        alone = distance(np.rint(move), np.zeros(7))
        assert alone <= rounded_sensitivity(norm, 1.0, 7, moved=0.5)


@pytest.mark.parametrize("corner", [0, 1, 2, 7])
@pytest.mark.parametrize("size", [1, 16])
def test_the_bound_is_reached_where_all_coordinates_are_just_above_a_corner(
    corner, size
):
    start = np.full(size, 0.5 - UNIT)
    move = np.full(size, corner + 2 * UNIT)
    moved = distance(np.rint(start + move), np.rint(start))
    norm = float(np.linalg.norm(move))
    assert moved == math.sqrt(size) * (corner + 1)
    assert rounded_sensitivity(norm, 1.0, size) == pytest.approx(moved, rel=1e-5)
    alone = np.full(size, corner + 0.5 + UNIT)
    norm = float(np.linalg.norm(alone))
    moved = distance(np.rint(alone), np.zeros(size))
    found = rounded_sensitivity(norm, 1.0, size, moved=0.5)
    assert moved == math.sqrt(size) * (corner + 1)
    assert found == pytest.approx(moved, rel=1e-5)


@pytest.mark.parametrize("moved", [0.5, 1.0])
@pytest.mark.parametrize("size", [1, 10, 10**6])
def test_it_grows_with_the_sensitivity_and_never_passes_the_plain_bound(moved, size):
    norms = np.geomspace(1e-3, 1e9, 200)
    found = [rounded_sensitivity(float(n), 1.0, size, moved=moved) for n in norms]
    plain = norms + moved * math.sqrt(size)
    assert np.all(np.diff(found) > 0)
    assert np.all(found <= plain * (1 + 1e-12))
    assert found[-1] >= norms[-1]


def test_a_coarse_grid_costs_less_than_the_plain_bound():
    assert rounded_sensitivity(1.0, 1.0, 10_000) == pytest.approx(math.sqrt(10_003))


@pytest.mark.parametrize("size", [1, 100, 10**8])
@pytest.mark.parametrize("clip", [1e-3, 0.7, 1.0, 50.0])
def test_the_usual_grid_costs_a_thousandth_at_most(size, clip):
    step = usual_granularity(clip, size)
    assert checked_granularity(step) == step
    added = rounded_sensitivity(clip, step, size) * step / clip - 1
    assert 0.4e-3 < added <= 1.001e-3


@pytest.mark.parametrize("batch", [1, 7, 1000, 2**20])
@pytest.mark.parametrize("clip", [0.3, 1.0])
def test_the_finest_exact_grid_is_one_and_half_of_it_is_none(batch, clip):
    step = exact_granularity(clip, batch)
    check_exact(step, clip, batch)
    with pytest.raises(ValueError, match="granularity"):
        check_exact(step / 2, clip, batch)
    # The largest sum there can be, and one step more or less, are floats.
    most = batch * (clip / step + 0.5)
    assert most <= 2**24 < 2 * most + batch


@pytest.mark.parametrize("value", [0.3, 3.0, 2.0**-127, 2.0**127, 0.0, -0.5, math.nan])
def test_a_grid_that_is_no_power_of_two_is_refused(value):
    with pytest.raises(ValueError, match="granularity"):
        checked_granularity(value)


def test_a_batch_of_which_no_grid_has_exact_sums_is_refused():
    with pytest.raises(ValueError, match="expected_batch_size"):
        exact_granularity(1.0, 2**24)
