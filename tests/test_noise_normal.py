import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dpjax.noise import normal

box_muller = jax.jit(normal.box_muller)
TOP = np.uint32(2**32 - 1)  # As angle bits: sin(pi / 2 * v) is 1 to 1e-19.


def awkward_words():
    """Return words from all ranges, dense where the method changes its formula."""
    near = np.arange(-2000, 2000)
    spread = np.linspace(0, 2**32 - 1, 200_001).astype(np.int64)
    powers = [2**k + near[1990:2010] for k in range(12, 32)]
    roots = [round(2**k * 2**0.5) + near[1990:2010] for k in range(12, 32)]
    places = [near, 2**32 + near, 3 * 2**30 + near, spread, *powers, *roots]
    words = np.unique(np.concatenate(places))
    return words[(words >= 0) & (words < 2**32)].astype(np.uint32)


def exact_radius(words):
    words = words.astype(np.float64)
    log = np.where(
        words < 2**31,
        np.log((words + 0.5) / 2**32),
        np.log1p(-(2**32 - words - 0.5) / 2**32),
    )
    return np.sqrt(-2 * log)


def exact_sine(words):
    sign = np.where(words & 1, 1.0, -1.0)
    return sign * np.sin(np.pi / 2 * ((words >> 1) + 0.5) / 2**31)


def middles(count):
    """Return the middle words of `count` equal intervals, all of them odd."""
    return (((np.arange(count) + 0.5) * (2**32 / count)).astype(np.uint32)) | 1


def symmetric_grid(count):
    """Return the sorted values of count**2 pairs of words, and of their mirror."""
    words = middles(count)
    half = np.asarray(box_muller(words[:, None], words[None, :]), np.float64).ravel()
    return np.sort(np.concatenate([half, -half]))


def test_radius_is_that_of_the_formula_in_all_ranges():
    words = awkward_words()
    radius = np.asarray(box_muller(words, TOP), np.float64)
    np.testing.assert_allclose(radius, exact_radius(words), rtol=5e-7)


def test_sine_is_that_of_the_formula_in_all_ranges():
    words = awkward_words()
    for radius_bits in (np.uint32(0), np.uint32(2**31), TOP):
        values = np.asarray(box_muller(radius_bits, words), np.float64)
        expected = exact_radius(radius_bits) * exact_sine(words)
        np.testing.assert_allclose(values, expected, rtol=5e-7)


def test_random_words_give_the_formula_too():
    a, b = np.random.default_rng(0).integers(0, 2**32, (2, 10**6), dtype=np.uint32)
    values = np.asarray(box_muller(a, b), np.float64)
    np.testing.assert_allclose(values, exact_radius(a) * exact_sine(b), rtol=5e-7)


@pytest.mark.parametrize("radius_bits", [0, 1, 2**31, 2**32 - 2, 2**32 - 1])
@pytest.mark.parametrize("angle_bits", [0, 1, 2, 2**31, 2**32 - 2, 2**32 - 1])
def test_extreme_words_give_finite_values_that_are_not_zero(radius_bits, angle_bits):
    value = float(box_muller(jnp.uint32(radius_bits), jnp.uint32(angle_bits)))
    assert 5.5e-15 < abs(value) < 6.77
    # The largest: sqrt(2 * 33 * log 2).
    if (radius_bits, angle_bits) == (0, 2**32 - 1):
        assert value == pytest.approx(np.sqrt(66 * np.log(2)), rel=5e-7)


def test_values_are_symmetric_to_the_last_bit():
    words = awkward_words()
    shuffled = np.random.default_rng(0).permutation(words)
    values = box_muller(shuffled, words)
    np.testing.assert_array_equal(values, -box_muller(shuffled, words ^ 1))
    np.testing.assert_array_equal(values > 0, words % 2 == 1)


def test_quantiles_are_those_of_a_normal():
    # 2 * 2048**2 values. The grid's own discrepancy is 1 / 2048 in radius and angle.
    values = symmetric_grid(2048)
    probabilities = (np.arange(values.size) + 0.5) / values.size
    quantiles = stats.norm.ppf(probabilities)
    inner = np.abs(quantiles) < 3
    assert np.abs(values - quantiles)[inner].max() < 2e-3
    assert np.abs(stats.norm.cdf(values) - probabilities).max() < 1e-4
    # It would not pass with a standard deviation that is off by a thousandth.
    assert np.abs(1.001 * values - quantiles)[inner].max() > 2.5e-3
    assert np.abs(stats.norm.cdf(1.001 * values) - probabilities).max() > 2e-4


def test_variance_over_all_words_is_one():
    # E[x**2] = E[radius**2] E[sine**2]. The square of the radius is singular at 0:
    # the 2**j words from 2**j on are cut into at most 2**12 parts of equal length.
    square, sine = 0.0, box_muller(np.uint32(0), middles(4096))
    for j in range(32):
        step = max(2 ** (j - 12), 1)
        words = 2**j + np.arange(0, 2**j, step) + step // 2
        radius = np.asarray(box_muller(words.astype(np.uint32), TOP), np.float64)
        square += (radius**2).mean() * 2.0 ** (j - 32)
    square += float(box_muller(np.uint32(0), TOP)) ** 2 * 2.0**-32
    relative = np.asarray(sine, np.float64) / float(box_muller(np.uint32(0), TOP))
    assert abs(square * (relative**2).mean() - 1) < 1e-6


def test_random_words_give_a_normal_sample_of_standard_deviation_one():
    a, b = np.random.default_rng(1).integers(0, 2**32, (2, 20_000), dtype=np.uint32)
    values = np.asarray(box_muller(a, b), np.float64)
    assert stats.kstest(values, "norm").pvalue > 1e-3
    assert stats.kstest(values * 3 / 2, "norm").pvalue < 1e-6
    assert stats.kstest(values * 2 / 3, "norm").pvalue < 1e-6


def test_wide_values_are_quantiles_of_a_normal():
    high = np.concatenate([[0, 1, 2**32 - 1], middles(1000)]).astype(np.uint32)
    low = np.uint32(12344)
    with jax.enable_x64(True):
        values = jax.jit(normal.inverse_cdf)(high, low)
        mirrored = jax.jit(normal.inverse_cdf)(high, low + np.uint32(1))
    assert values.dtype == np.float64
    lower = high.astype(np.float64) / 2**33 + (low / 2 + 0.5) / 2**64
    np.testing.assert_allclose(values, stats.norm.ppf(lower), rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(values, -mirrored)


def test_extreme_wide_values_are_finite():
    with jax.enable_x64(True):
        far = float(normal.inverse_cdf(jnp.uint32(0), jnp.uint32(0)))
        near = float(normal.inverse_cdf(jnp.uint32(TOP), jnp.uint32(TOP)))
    assert far == pytest.approx(stats.norm.ppf(2.0**-65), rel=1e-12)
    assert abs(near) < 1e-15
