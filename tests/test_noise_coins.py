import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dpjax.noise.coins import coins, coins_of_exp, uniform
from dpjax.noise.entropy import KeyedSource

SIZE = 40_000


class Script:
    """A source that gives the bytes it was told to."""

    def __init__(self, data):
        self.data = data

    def take(self, count):
        taken, self.data = self.data[:count], self.data[count:]
        assert len(taken) == count
        return taken


@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 7), (0, 5), (5, 5), (40_000, 65_537)])
def test_a_coin_s_first_digits_are_those_of_the_fraction(n, d):
    # Each of the 2^16 first digits once; the next digit, where one is needed, is 0.
    first = np.arange(2**16, dtype="<u2")
    tie = n * 2**16 // d
    script = Script(first.tobytes() + b"\0\0" * 4)
    heads = coins(script, np.full(2**16, n), d)
    expected = first.astype(int) < tie
    if tie < 2**16 and n * 2**16 % d:
        # 0 is below the second digit of the fraction, unless that is 0 itself.
        expected[tie] = True
        assert (n * 2**16 % d) * 2**16 >= d
    np.testing.assert_array_equal(heads, expected)
    assert heads.sum() in (tie, tie + 1)


@given(st.integers(1, 2**40), st.data())
def test_coins_do_not_depend_on_how_wide_the_numbers_are(d, data):
    n = data.draw(st.integers(0, d))
    narrow = coins(KeyedSource(b"c"), np.full(500, n), d)
    wide = coins(KeyedSource(b"c"), np.full(500, n << 70, object), d << 70)
    np.testing.assert_array_equal(narrow, wide)


@pytest.mark.parametrize(
    ("n", "d"), [(0, 1), (1, 10), (1, 1), (7, 4), (17, 3), (3 * 2**80 + 1, 2**81)]
)
def test_coins_of_exp_have_their_probability(n, d):
    size = 100_000
    dtype = np.int64 if n < 2**62 else object
    heads = coins_of_exp(KeyedSource(b"e"), np.full(size, n, dtype), d)
    p = math.exp(-n / d)
    assert abs(heads.mean() - p) <= 5 * math.sqrt(p * (1 - p) / size)
    for wrong in (p * 2 / 3, p * 3 / 2):
        if p * size > 1000:
            assert abs(heads.mean() - wrong) > 5 * math.sqrt(p / size)


def test_coins_of_exp_of_one_sequence_are_what_the_algorithm_says():
    # gamma = 1/2: the coins of 1/2, then of 1/4 as 1/2 and 1/2, then 1/6, ...
    heads, tails = b"\0\0", b"\xff\xff"
    half = np.array([1])

    def result(*throws):
        return bool(coins_of_exp(Script(b"".join(throws)), half, 2)[0])

    assert result(tails)  # k = 1
    assert not result(heads, tails, heads)  # k = 2, the first of its coins
    assert not result(heads, heads, tails)  # k = 2, the second of its coins
    assert result(heads, heads, heads, tails, heads)  # k = 3


@pytest.mark.parametrize("count", [1, 2, 3, 5, 1000])
def test_uniform_integers_are_uniform(count):
    drawn = uniform(KeyedSource(b"u"), count, SIZE)
    assert drawn.min() >= 0
    assert drawn.max() < count
    counts = np.bincount(drawn, minlength=count)
    assert count == 1 or stats.chisquare(counts).pvalue > 1e-3
