"""An order of very many things, of which any place can be asked for."""

import numpy as np
import pytest
from draws import KEY, draws, two_sided
from hypothesis import given, settings
from hypothesis import strategies as st

from dpjax.sampling import ShuffledEpochs, epochs, streams
from dpjax.sampling.permutation import Permutation


def permutation(count, index=0):
    return Permutation(streams.stream(KEY, b"test", index), count)


@settings(max_examples=60)
@given(st.integers(1, 3000), st.integers(0, 5))
def test_every_thing_has_one_place(count, index):
    order = permutation(count, index)(np.arange(count))
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(count))


@pytest.mark.parametrize("count", [10**9, 2**31 - 1])
def test_very_many_things_have_different_places_in_range(count):
    places = np.concatenate([np.arange(1000), np.arange(count - 1000, count)])
    order = permutation(count)(places)
    assert len(set(order.tolist())) == 2000
    assert order.min() >= 0
    assert order.max() < count


def test_a_place_is_the_same_whatever_else_is_asked_for():
    order = permutation(1000)
    whole = order(np.arange(1000))
    np.testing.assert_array_equal(order(np.array([7, 999, 7])), whole[[7, 999, 7]])


@pytest.mark.parametrize("count", [10, 1000])
def test_every_place_has_every_thing_as_likely(count):
    first = [int(permutation(count, i)(np.array([count // 2]))[0]) for i in range(2000)]
    cells = np.bincount(np.asarray(first) * 10 // count, minlength=10)
    assert two_sided(((cells - 200) ** 2 / 200).sum(), 9) > 1e-3


@pytest.mark.parametrize("places", [[1, 2], [1, 31], [1, 899]])
def test_two_places_have_their_things_independently(places):
    # 30 by 30 digits: places that share the one, the other, or neither.
    found = [permutation(900, i)(np.array(places)) * 4 // 900 for i in range(3200)]
    first, second = np.transpose(found)
    counts = np.bincount(4 * first + second, minlength=16)
    expected = np.where(np.eye(4, dtype=bool).ravel(), 224 / 899, 225 / 899) * 800
    assert two_sided(((counts - expected) ** 2 / expected).sum(), 15) > 1e-3


def test_neighbours_are_not_kept_together():
    order = permutation(10**9)(np.arange(5000)).astype(float) / 10**9 - 0.5
    correlation = (order[1:] * order[:-1]).mean() * 12
    assert abs(correlation) < 5 / np.sqrt(5000)
    assert abs(np.diff(order).mean()) < 0.01


def test_epochs_of_many_examples_are_orders_of_their_own(monkeypatch):
    monkeypatch.setattr(epochs, "_TABLE", 50)
    steps = draws(ShuffledEpochs(), 53, 10, 12)
    whole = [np.concatenate(steps[:6]), np.concatenate(steps[6:])]
    for order in whole:
        np.testing.assert_array_equal(np.sort(order), np.arange(53))
    assert (whole[0] != whole[1]).any()
    (draw,) = draws(ShuffledEpochs(), 53, 10, 9, start_step=8)
    np.testing.assert_array_equal(draw, steps[8])
