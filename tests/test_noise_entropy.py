import errno
import os

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dpjax.noise import EntropyError, key_data, secure_bytes
from dpjax.noise.entropy import KeyedSource, SystemSource

FAILURES = [
    NotImplementedError("/dev/urandom (or equivalent) not found"),
    OSError(errno.ENOSYS, "getrandom"),
    FileNotFoundError("/dev/urandom"),
]


@pytest.fixture(params=FAILURES, ids=lambda error: type(error).__name__)
def without_entropy(request, monkeypatch):
    def fail(count):
        raise request.param

    monkeypatch.setattr(os, "urandom", fail)
    return request.param


def test_a_missing_secure_source_is_an_error_and_never_a_fallback(without_entropy):
    with pytest.raises(EntropyError, match="no fallback") as caught:
        secure_bytes(8)
    assert caught.value.__cause__ is without_entropy


@pytest.mark.usefixtures("without_entropy")
def test_no_key_is_made_up_where_there_is_no_secure_source():
    with pytest.raises(EntropyError):
        key_data(None)
    with pytest.raises(EntropyError):
        SystemSource().take(1)


@pytest.mark.usefixtures("without_entropy")
def test_an_explicit_key_needs_no_secure_source():
    assert key_data(5).tolist() == [0, 5]
    assert key_data(jax.random.key(5)).tolist() == [0, 5]


def test_a_source_that_returns_too_little_is_an_error(monkeypatch):
    monkeypatch.setattr(os, "urandom", lambda count: b"\0" * (count - 1))
    with pytest.raises(EntropyError, match="len=7"):
        secure_bytes(8)


def test_keys_are_made_of_the_operating_system_s_bytes_and_of_nothing_else(monkeypatch):
    monkeypatch.setattr(os, "urandom", lambda count: bytes(range(1, count + 1)))
    words = np.frombuffer(bytes(range(1, 9)), np.uint32)
    np.testing.assert_array_equal(key_data(None), words)


def test_fresh_keys_differ():
    drawn = {tuple(key_data(None).tolist()) for _ in range(200)}
    assert len(drawn) == 200


@pytest.mark.parametrize(("count", "error"), [(-1, ValueError), (1.0, TypeError)])
def test_what_is_no_number_of_bytes_is_refused(count, error):
    with pytest.raises(error, match="Expected an integer"):
        secure_bytes(count)


@given(st.lists(st.integers(0, 200_000), max_size=5))
def test_a_keyed_stream_does_not_depend_on_how_it_is_asked(counts):
    source = KeyedSource(b"seed")
    pieces = [source.take(count) for count in counts]
    assert list(map(len, pieces)) == counts
    assert b"".join(pieces) == KeyedSource(b"seed").take(sum(counts))


def test_keyed_streams_are_uniform_and_of_different_seeds_independent():
    one, two = (
        np.frombuffer(KeyedSource(seed).take(1 << 20), np.uint8) for seed in (b"", b"0")
    )
    for values in (one, two, one ^ two, one[1:] ^ one[:-1]):
        assert stats.chisquare(np.bincount(values, minlength=256)).pvalue > 1e-3
