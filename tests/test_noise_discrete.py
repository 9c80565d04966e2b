import fractions
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from dpjax.noise import discrete_gaussian_noise, key_data
from dpjax.noise.discrete import discrete_gaussian, rounded_variance
from dpjax.noise.entropy import KeyedSource, SystemSource

SIZE = 40_000


def numbers(variance, count=SIZE, seed=b"a"):
    return discrete_gaussian(KeyedSource(seed), fractions.Fraction(variance), count)


def mass(stddev, reach=12):
    """Return the support and the probabilities, from the definition."""
    end = math.ceil(reach * stddev) + 2
    support = np.arange(-end, end + 1)
    weights = np.exp(-(support**2) / (2 * stddev**2))
    return support, weights / weights.sum()


def p_value(drawn, stddev):
    """Return the p-value of a chi-square test with cells of at least 10 draws."""
    support, masses = mass(stddev)
    counts = np.array([(drawn == x).sum() for x in support])
    likely = masses * drawn.size >= 10
    observed = [*counts[likely], drawn.size - counts[likely].sum()]
    expected = [*(masses[likely] * drawn.size), masses[~likely].sum() * drawn.size]
    if expected[-1] < 5:  # Cells that hardly ever happen go with the middle one.
        centre = likely.sum() // 2
        expected[centre] += expected.pop()
        observed[centre] += observed.pop()
    expected = np.array(expected) * drawn.size / sum(expected)
    return stats.chisquare(observed, expected).pvalue


@pytest.mark.parametrize("stddev", [0.4, 1.0, 3.7, 25.0])
def test_noise_has_the_probabilities_of_the_definition(stddev):
    drawn = numbers(rounded_variance(stddev))
    assert p_value(drawn, stddev) > 1e-3
    assert p_value(drawn, stddev * 2 / 3) < 1e-6
    assert p_value(drawn, stddev * 3 / 2) < 1e-6


@pytest.mark.parametrize(
    "variance", [fractions.Fraction(1, 3), 2 / 3, 10**6, fractions.Fraction(10**16, 7)]
)
def test_any_rational_variance_is_drawn(variance):
    variance = fractions.Fraction(variance)
    drawn = numbers(variance) / 1.0
    support, masses = mass(math.sqrt(variance)) if variance < 100 else (None, None)
    exact = variance if support is None else (support**2 * masses).sum()
    # The variance of a squared normal is twice its squared mean; of narrower laws less.
    spread = np.std(drawn**2) / math.sqrt(SIZE)
    assert abs(np.mean(drawn**2) - float(exact)) < 5 * spread
    assert abs(np.mean(drawn)) < 5 * math.sqrt(exact / SIZE)


def test_wide_noise_is_normal_to_what_a_sample_can_tell():
    drawn = numbers(rounded_variance(1e5))
    assert stats.kstest(drawn / 1e5, "norm").pvalue > 1e-3
    assert stats.kstest(drawn / 1e5 * 1.05, "norm").pvalue < 1e-3


@given(st.floats(2.0**-39, 2.0**39))
def test_a_variance_is_rounded_up_and_hardly(stddev):
    exact, rounded = fractions.Fraction(stddev) ** 2, rounded_variance(stddev)
    assert exact <= rounded <= exact * (1 + fractions.Fraction(1, 2**15))


LIKE = {"a": np.zeros((30, 5)), "b": [np.float32(0), np.zeros((0, 3))]}


def test_noise_is_a_pure_function_of_key_step_and_leaf_path():
    one, same = (discrete_gaussian_noise(key_data(3), 4, LIKE, 9.0) for _ in "12")
    assert jax.tree.all(jax.tree.map(np.array_equal, one, same))
    assert jax.tree.map(np.shape, one) == {"a": (30, 5), "b": [(), (0, 3)]}
    alone = discrete_gaussian_noise(key_data(3), 4, {"a": LIKE["a"]}, 9.0)
    np.testing.assert_array_equal(one["a"], alone["a"])
    others = [
        discrete_gaussian_noise(key_data(4), 4, LIKE, 9.0)["a"],
        discrete_gaussian_noise(key_data(3), 5, LIKE, 9.0)["a"],
        discrete_gaussian_noise(key_data(3), 4, {"c": LIKE["a"]}, 9.0)["c"],
        discrete_gaussian_noise(None, 4, LIKE, 9.0)["a"],
        discrete_gaussian_noise(None, 4, LIKE, 9.0)["a"],
    ]
    for i, other in enumerate(others):
        for earlier in (one["a"], *others[:i]):
            assert np.mean(other == earlier) < 0.2


def test_leaves_and_steps_are_independent():
    like = {"a": np.zeros(SIZE), "b": np.zeros(SIZE)}
    now, then = (discrete_gaussian_noise(key_data(1), t, like, 20.0) for t in (0, 1))
    pairs = [(now["a"], now["b"]), (now["a"], then["a"]), (now["a"][1:], now["a"][:-1])]
    for one, two in pairs:
        assert abs(np.corrcoef(one, two)[0, 1]) * math.sqrt(one.size) < 5


def test_bytes_of_the_operating_system_give_the_same_law():
    drawn = discrete_gaussian(SystemSource(), fractions.Fraction(9), SIZE)
    # Not replayable: a false alarm once in a million runs.
    assert p_value(drawn, 3.0) > 1e-6
    assert p_value(drawn, 2.0) < 1e-9


def test_integers_stay_integers():
    for stddev in (1e-3, 5.0, 1e6):
        noise = discrete_gaussian_noise(key_data(0), 0, jnp.zeros(50), stddev)
        assert noise.dtype == np.int64
    assert not discrete_gaussian_noise(key_data(0), 0, jnp.zeros(50), 1e-3).any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((key_data(0), 0, LIKE, 0.0), ValueError, "a number > 0, got stddev"),
        ((key_data(0), 0, LIKE, 2.0**41), ValueError, "a number in .*got stddev"),
        ((key_data(0), 0, LIKE, math.nan), ValueError, "a finite number, got stddev"),
        ((key_data(0), -1, LIKE, 1.0), ValueError, "an integer >= 0, got step"),
        ((key_data(0), 2**32, LIKE, 1.0), ValueError, "got step"),
        ((key_data(0), 0.0, LIKE, 1.0), TypeError, "an integer, got step"),
        ((key_data(0), 0, {}, 1.0), ValueError, "at least one array"),
        ((np.zeros(3, np.uint32), 0, LIKE, 1.0), ValueError, "data.shape"),
        ((7, 0, LIKE, 1.0), TypeError, "data.dtype"),
    ],
)
def test_what_is_out_of_range_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        discrete_gaussian_noise(*arguments)


@pytest.mark.parametrize("shift", [1, 3, 10])
@pytest.mark.parametrize("stddev", [0.6, 2.0, 9.0])
def test_the_law_has_the_divergences_that_are_accounted_for(stddev, shift):
    # Proposition 5 of Canonne, Kamath and Steinke, from the probabilities themselves.
    support = np.arange(-2000, 2001)
    logs = -(support**2) / (2 * stddev**2)
    logs -= special.logsumexp(logs)
    moved = -((support - shift) ** 2) / (2 * stddev**2)
    moved -= special.logsumexp(moved)
    for order in (1.5, 2.0, 8.0, 40.0):
        moment = special.logsumexp(order * moved - (order - 1) * logs)
        found = moment / (order - 1)
        bound = order * shift**2 / (2 * stddev**2)
        assert found <= bound * (1 + 1e-12)
        if order == int(order):  # There it is reached: the bound has no slack.
            assert found == pytest.approx(bound, rel=1e-9)
