"""Private quantiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from released import assert_normal

from dpjax.curvature import Private
from dpjax.release import core, private_quantile, quantile

BINS = 32


def itself(_, x):
    return x


def released(x, levels=0.5, noise_multiplier=0.0, key=0, **options):
    options = {"low": -1.0, "high": 3.0, "num_bins": BINS} | options
    return private_quantile(
        itself,
        None,
        Private(jnp.asarray(x)),
        levels,
        noise_multiplier=noise_multiplier,
        key=key,
        **options,
    )


def columns(x, num_bins=BINS):
    """Return what is summed of each example, (batch, num_bins), float64."""
    bins = quantile._Bins(num_bins, -1.0, 3.0)
    rows = jax.vmap(lambda one: bins(itself, None, one))(jnp.asarray(x))
    return np.asarray(rows, float)


def root(num_bins=BINS):
    """Return the square root of the matrix of prefix sums."""
    sums = np.tril(np.ones((num_bins, num_bins)))
    return np.real(scipy.linalg.sqrtm(sums))


# Sensitivity.


@pytest.mark.parametrize(
    "num_bins", [BINS, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 1000))]
)
def test_no_example_contributes_more_than_one(num_bins):
    x = np.concatenate([np.linspace(-1.5, 3.5, 101), [1e30, -1e30, 1e-41]])
    norms = np.linalg.norm(columns(x.astype(np.float32), num_bins), axis=1)
    assert norms.max() <= 1 + 1e-6
    np.testing.assert_allclose(norms[0], 1, rtol=1e-6)


@given(st.floats(width=32), st.floats(width=32))
@settings(max_examples=60)
def test_any_number_moves_the_sum_by_at_most_one(one, other):
    x = np.array([0.1, one, 0.7, 2.0], np.float32)
    bins = jax.tree_util.Partial(
        quantile._Bins(BINS, -1.0, 3.0), jax.tree_util.Partial(itself), None
    )

    def total(x, mask):
        rule = core.settings.checked(1.0, 1.0, None, None, 1).rule
        return np.asarray(core.clipped_rows(bins, (x,), mask, rule).sum, float)

    everyone = np.ones(4, bool)
    without = np.array([True, False, True, True])
    replaced = x.copy()
    replaced[1] = other
    rounding = 1e-6
    with_it = total(x, everyone)
    assert np.linalg.norm(with_it - total(x, without)) <= 1 + rounding
    assert np.linalg.norm(with_it - total(replaced, everyone)) <= 2 + rounding


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_example_that_is_not_finite_is_not_counted(broken):
    with_it = released(np.float32([0.0, broken, 1.0]), expected_batch_size=2.0)
    without = released(np.float32([0.0, 1.0]), expected_batch_size=2.0)
    np.testing.assert_array_equal(with_it.cumulative, without.cumulative)


# Noise.


def test_noise_of_the_fractions_is_that_of_one_gaussian_event():
    """Where counts are far apart they grow as they are, and noise can be taken off."""
    num_bins, per_bin, z, keys = BINS, 400, 1.5, 40
    centres = -1 + 4 * (np.arange(num_bins) + 0.5) / num_bins
    x = np.repeat(centres, per_bin).astype(np.float32)
    exact = per_bin * np.arange(1, num_bins + 1)
    inverse = np.linalg.inv(root(num_bins)) / np.linalg.norm(root(num_bins)[:, 0])
    values = []
    for key in range(keys):
        found = released(x, noise_multiplier=z, key=key, num_bins=num_bins)
        noised = np.asarray(found.cumulative, float)[1:] * x.size
        values.append(inverse @ (noised - exact))
    # Sums of 12,800 in float32 are right to 1e-3, and noise has 1.5.
    assert_normal(np.concatenate(values), z)


@pytest.mark.parametrize("num_bins", [pytest.param(2, marks=pytest.mark.slow), BINS])
def test_stderr_is_the_largest_of_all_fractions(num_bins):
    found = released(np.zeros(10, np.float32), noise_multiplier=3.0, num_bins=num_bins)
    matrix = root(num_bins) * np.linalg.norm(root(num_bins)[:, 0])
    largest = np.linalg.norm(matrix, axis=1).max()
    np.testing.assert_allclose(found.stderr, 3.0 * largest / 10, rtol=1e-5)


@pytest.mark.slow
def test_square_root_of_sums_has_less_noise_than_sums_of_noise():
    found = released(np.zeros(1, np.float32), noise_multiplier=1.0, num_bins=256)
    expected = (np.log(16 * 256) + np.euler_gamma) / np.pi
    np.testing.assert_allclose(found.stderr, expected, rtol=1e-3)
    assert found.stderr < np.sqrt(256) / 5


# The value.


def test_fractions_without_noise_are_those_of_the_examples():
    x = np.random.default_rng(0).normal(size=500).astype(np.float32)
    found = released(x)
    expected = [np.mean(x < edge) for edge in np.linspace(-1, 3, BINS + 1)]
    expected[0], expected[-1] = 0.0, 1.0
    np.testing.assert_allclose(found.cumulative, expected, atol=1e-5)
    np.testing.assert_allclose(found.edges, np.linspace(-1, 3, BINS + 1), atol=1e-6)


@pytest.mark.parametrize("level", [0.0, 0.05, 0.25, 0.5, 0.9, 1.0])
def test_quantile_is_right_to_a_bin_and_to_the_stated_rank(level):
    x = np.random.default_rng(1).uniform(-0.5, 2.0, 20_000).astype(np.float32)
    found = released(x, level, noise_multiplier=4.0, key=7)
    slack = 5 * float(found.stderr)
    # Below rank 0 is all of the range that is below the examples; so it is above 1.
    low = np.quantile(x, level - slack) if level > slack else -1
    high = np.quantile(x, level + slack) if level < 1 - slack else 3
    width = 4 / BINS
    assert low - width <= found.value <= high + width


@pytest.mark.slow
def test_all_levels_come_from_one_release():
    x = np.random.default_rng(1).normal(size=300).astype(np.float32)
    levels = np.array([[0.1, 0.5], [0.9, 1.0]])
    together = released(x, levels, noise_multiplier=1.0)
    assert together.value.shape == (2, 2)
    for level, value in zip(levels.ravel(), together.value.ravel(), strict=True):
        alone = released(x, float(level), noise_multiplier=1.0)
        assert alone.value.shape == ()
        np.testing.assert_allclose(alone.value, value, rtol=1e-6)


@pytest.mark.parametrize("noise_multiplier", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("size", [0, 50])
def test_value_lies_in_the_range_and_fractions_never_fall(size, noise_multiplier):
    x = np.random.default_rng(2).normal(size=size, scale=9).astype(np.float32)
    for key in range(5):
        found = released(
            x,
            np.array([0.0, 0.3, 1.0]),
            noise_multiplier=noise_multiplier,
            key=key,
            expected_batch_size=50.0,
        )
        assert found.cumulative[0] == 0
        assert (np.diff(found.cumulative) >= 0).all()
        assert (found.value >= -1).all()
        assert (found.value <= 3).all()
        assert (np.diff(found.value) >= 0).all()


def test_values_outside_of_the_range_are_counted_at_its_ends():
    found = released(np.float32([-50.0, -50.0, 1.1, 80.0]))
    np.testing.assert_allclose(
        found.cumulative[1:], [0.5] * 16 + [0.75] * 15 + [1.0], atol=1e-6
    )


def test_integers_and_several_arguments_are_taken():
    def gap(offset, x, y):
        return x - y + offset

    batch = Private((jnp.arange(9), jnp.ones(9, int)))
    found = private_quantile(
        gap, 1, batch, 0.5, low=0, high=9, num_bins=9, noise_multiplier=0.0, key=0
    )
    np.testing.assert_allclose(found.value, 4.5, atol=1e-4)


@pytest.mark.slow
def test_double_precision_is_kept():
    with jax.enable_x64(True):
        found = released(np.linspace(-1, 3, 100), noise_multiplier=1.0)
        assert found.value.dtype == found.cumulative.dtype == jnp.float64


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"low": 3.0}, "high"),
        ({"low": np.nan}, "low"),
        ({"high": np.inf}, "high"),
        ({"high": 1e39}, "high"),
        ({"low": -3e38, "high": 3e38}, "high"),
        ({"num_bins": 1}, "num_bins"),
        ({"levels": 1.5}, "levels"),
        ({"levels": np.nan}, "levels"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(options, name):
    with pytest.raises(ValueError, match=name):
        released(np.zeros(3, np.float32), **options)


def test_the_range_may_be_given_as_arrays():
    x = np.linspace(-1, 3, 100, dtype=np.float32)
    found = released(x, low=jnp.asarray(-1.0), high=jnp.asarray(3.0))
    np.testing.assert_array_equal(found.value, released(x).value)


def test_function_must_give_one_real_number():
    with pytest.raises(ValueError, match="scalar"):
        released(np.zeros((3, 2), np.float32))
    with pytest.raises(TypeError, match="real"):
        released(np.zeros(3, np.complex64))
