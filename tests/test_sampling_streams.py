"""The random numbers of sampling."""

import itertools

import numpy as np
import pytest
from draws import KEY, two_sided
from scipy import stats

from dpjax.sampling import streams


def source(step=0, purpose=b"test"):
    return streams.stream(KEY, purpose, step)


def test_key_purpose_and_step_make_a_stream():
    first = source().random_raw(4)
    np.testing.assert_array_equal(source().random_raw(4), first)
    others = [
        source(1),
        source(purpose=b"text"),
        streams.stream(KEY[::-1].copy(), b"test", 0),
    ]
    assert len({tuple(s.random_raw(4).tolist()) for s in [source(), *others]}) == 4


@pytest.mark.parametrize("count", [1, 2, 3, 7, 1000, 2**31 - 1])
def test_integers_are_below_the_count_and_as_likely_as_each_other(count):
    found = streams.integers(source(), count, 20_000)
    assert found.dtype == np.int32
    assert found.min() >= 0
    assert found.max() < count
    bins = min(count, 10)
    places = found.astype(np.int64) * bins // count
    share = np.diff([-(-count * place // bins) for place in range(bins + 1)]) / count
    observed = np.bincount(places, minlength=bins)
    if bins > 1:
        assert stats.chisquare(observed, 20_000 * share).pvalue > 1e-3


class Scripted:
    """A generator of given words."""

    def __init__(self, *words):
        self.words = list(words)

    def random_raw(self, size):
        taken, self.words = self.words[:size], self.words[size:]
        return np.array(taken, np.uint64)


def test_words_that_would_favour_small_numbers_are_thrown_again():
    # 2^64 = 1 mod 3: the largest word would make 0 the likeliest.
    found = streams.integers(Scripted(2**64 - 1, 5, 7), 3, 2)
    assert found.tolist() == [2, 1]
    found = streams.integers(Scripted(2**64 - 2, 5, 7), 3, 2)
    assert found.tolist() == [(2**64 - 2) % 3, 2]


@pytest.mark.parametrize(
    ("count", "size"), [(1, 1), (5, 0), (5, 5), (10, 3), (10, 8), (1000, 999)]
)
def test_distinct_numbers_are_distinct_and_ascend(count, size):
    for step in range(20):
        found = streams.distinct(source(step), count, size)
        assert found.dtype == np.int32
        assert found.size == size
        assert np.all(np.diff(found) > 0)
        assert not size or (found[0] >= 0 and found[-1] < count)


@pytest.mark.parametrize(("count", "size"), [(5, 2), (5, 3), (4, 1), (4, 3)])
def test_every_set_of_distinct_numbers_is_as_likely_as_any_other(count, size):
    sets = {chosen: 0 for chosen in itertools.combinations(range(count), size)}
    for step in range(3000):
        sets[tuple(streams.distinct(source(step), count, size).tolist())] += 1
    expected = 3000 / len(sets)
    statistic = sum((seen - expected) ** 2 / expected for seen in sets.values())
    assert two_sided(statistic, len(sets) - 1) > 1e-3


def test_every_subset_is_as_likely_as_any_other():
    members = np.array([3, 5, 8, 13], np.int32)
    sets = {chosen: 0 for chosen in itertools.combinations(members.tolist(), 2)}
    for step in range(3000):
        sets[tuple(streams.subset(source(step), members, 2).tolist())] += 1
    statistic = sum((seen - 500) ** 2 / 500 for seen in sets.values())
    assert two_sided(statistic, 5) > 1e-3
