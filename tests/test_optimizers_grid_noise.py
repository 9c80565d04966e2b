import numpy as np
import pytest

from dpjax.noise.discrete import discrete_gaussian_noise
from dpjax.optimizers.grid import rounded_sensitivity
from dpjax.optimizers.grid_noise import Grid

WORDS = np.array([0, 7], np.uint32)
STEP = 2.0**-6


def grid(noise_multiplier=1.5, granularity=STEP, size=9, *, rounded=False):
    return Grid.of(0.7, noise_multiplier, granularity, size, rounded=rounded)


@pytest.mark.parametrize(("rounded", "moved"), [(False, 1.0), (True, 0.5)])
def test_the_noise_is_a_multiple_of_the_sensitivity_with_its_rounding(rounded, moved):
    found = grid(rounded=rounded)
    scale = rounded_sensitivity(0.7, STEP, 9, moved=moved)
    assert found.stddev == 1.5 * scale > 1.5 * 0.7 / STEP


def test_sums_are_rounded_and_the_integers_drawn_are_added():
    total = {"a": np.linspace(-1, 1, 6, dtype=np.float32), "b": np.float32(0.3)}
    noised = grid().noised(WORDS, 4, total)
    drawn = discrete_gaussian_noise(WORDS, 4, total, grid().stddev)
    for name, leaf in total.items():
        wanted = (np.rint(leaf / STEP) + drawn[name]) * STEP
        np.testing.assert_array_equal(noised[name], wanted.astype(np.float32))
        assert noised[name].dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_halves_are_rounded_to_even_whatever_the_dtype(dtype):
    total = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.5 - 2.0**-25], dtype) * STEP
    noised = grid(noise_multiplier=0.0).noised(WORDS, 0, total)
    np.testing.assert_array_equal(noised / STEP, [0, 2, 2, 0, -2, 0])
    assert noised.dtype == dtype


def test_no_number_stays_no_number():
    noised = grid().noised(WORDS, 0, np.array([np.nan, 1.0], np.float32))
    assert np.isnan(noised).tolist() == [True, False]


@pytest.mark.parametrize("value", [np.inf, -np.inf, 3e38, 2.0**52 * STEP * 1.5])
def test_what_is_too_large_ends_at_a_bound_before_the_noise(value):
    # Otherwise its neighbour, which is not, would be told apart for certain.
    total = np.array([value, 1.0], np.float64)
    bound = np.sign(value) * 2.0**52 * STEP
    noised = grid().noised(WORDS, 0, total)
    at_the_bound = grid().noised(WORDS, 0, np.array([bound, 1.0]))
    np.testing.assert_array_equal(noised, at_the_bound)
    assert np.all(np.isfinite(noised))


def test_what_should_be_on_the_grid_and_is_not_is_nan():
    steps = np.array([1, 1.5, -7, 2**24, 2**24 + 2, -(2**30)], np.float32)
    noised = grid(rounded=True).noised(WORDS, 0, steps * np.float32(STEP))
    expected = [False, True, False, False, False, False]
    np.testing.assert_array_equal(np.isnan(noised), expected)
    largest = np.clip(steps, -(2.0**24), 2.0**24) * np.float32(STEP)
    bounded = grid(rounded=True).noised(WORDS, 0, largest)
    np.testing.assert_array_equal(noised, bounded)
    sum_noised = grid().noised(WORDS, 0, steps * np.float32(STEP))
    assert np.all(np.isfinite(sum_noised))


def test_a_grid_on_which_no_noise_can_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"2\*\*40 steps"):
        grid(granularity=2.0**-60)
    assert grid(noise_multiplier=0.0, granularity=2.0**-60).stddev == 0
