"""Coins and guesses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpjax.auditing import coin


def test_coins_are_fair_and_repeatable():
    coins = coin.flip(100_000, 3)
    assert abs(coins.mean() - 0.5) < 4 * 0.5 / np.sqrt(100_000)
    np.testing.assert_array_equal(coins, coin.flip(100_000, 3))
    assert not np.array_equal(coins, coin.flip(100_000, 4))


def test_a_fresh_seed_is_never_the_same():
    assert coin.coin_seed(None) != coin.coin_seed(None)
    assert coin.coin_seed(7) == 7


@pytest.mark.parametrize("coins", [np.ones(5, bool), np.zeros(5, bool)])
def test_all_on_one_side_tells_nothing(coins):
    with pytest.raises(coin.AuditError, match="in and out"):
        coin.checked_coins(coins)


@given(st.integers(1, 5000))
def test_the_default_asks_for_no_more_guesses_than_canaries(count):
    assert 1 <= coin.default_guesses(count) <= count


@given(st.integers(2, 60), st.data())
def test_guesses_are_counted_at_both_ends(count, draw):
    guesses = draw.draw(st.integers(1, count))
    scores = np.array(draw.draw(st.permutations(range(count))), float)
    coins = np.array(draw.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    num_out = guesses // 2
    right = sum(
        bool(c) if s >= count - (guesses - num_out) else s < num_out and not c
        for s, c in zip(scores, coins, strict=True)
    )
    assert coin.guess(scores, coins, guesses) == (guesses, right)
