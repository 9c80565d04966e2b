"""The random numbers of sampling: a pure function of key, purpose and step.

They come from the counter-based generator Philox4x64-10, keyed by SHA-256 of the key
words, a domain, a purpose and a step. Only its raw words are used, which NumPy promises
to keep the same in all its versions.
"""

import hashlib
import math
from typing import Any

import numpy as np

from dpjax import _check

_DOMAIN = b"dpjax.sampling"


def checked_words(key_data: Any) -> np.ndarray:
    """Return checked key words, copied to the host."""
    words = np.array(key_data)
    if words.dtype != np.uint32:
        _check.fail("uint32 key data", "key_data.dtype", str(words.dtype), TypeError)
    if words.shape != (2,):
        _check.fail("key data of shape (2,)", "key_data.shape", words.shape)
    return words


def stream(words: np.ndarray, purpose: bytes, index: int) -> np.random.Philox:
    """Return the generator that belongs to a key, a purpose and a step or epoch."""
    parts = _DOMAIN, purpose, words.astype("<u4").tobytes(), index.to_bytes(8, "little")
    digest = hashlib.sha256(b"\0".join(parts)).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"))


def heads(source: np.random.Philox, count: int, q: float) -> np.ndarray:
    """Return which of `count` independent coins of probability q show heads.

    The gap to the next head is geometric, P(gap > k) = (1 - q)^k, drawn by inversion of
    a uniform number in (0, 1]: work and memory follow the heads, not the coins.
    """
    if q == 1:
        return np.arange(count, dtype=np.int32)
    block = math.ceil(count * q + 4 * math.sqrt(count * q)) + 8
    found, last = [], -1
    while last < count - 1:
        uniform = ((source.random_raw(block) >> 11) + 1) * 2.0**-53
        gaps = 1 + np.minimum(np.log(uniform) / math.log1p(-q), count)
        places = last + np.cumsum(gaps.astype(np.int64))
        found.append(places[places < count].astype(np.int32))
        last = int(places[-1])
    return np.concatenate(found)


def subset(source: np.random.Philox, members: np.ndarray, size: int) -> np.ndarray:
    """Return `size` of `members`, each subset as likely as any other, in order."""
    tickets = source.random_raw(members.size)
    return members[np.sort(np.argsort(tickets, kind="stable")[:size])]


def integers(source: np.random.Philox, count: int, size: int) -> np.ndarray:
    """Return `size` independent numbers below `count`, all equally likely: int32."""
    # The raw words from a multiple of `count` on would favour small numbers.
    limit = np.uint64(2**64 - 1 - (2**64 % count))
    found = np.empty(0, np.uint64)
    while found.size < size:
        raw = source.random_raw(size - found.size)
        found = np.append(found, raw[raw <= limit])
    return (found % np.uint64(count)).astype(np.int32)


def distinct(source: np.random.Philox, count: int, size: int) -> np.ndarray:
    """Return `size` different numbers below `count`, ascending; all sets are as likely.

    Numbers are drawn until `size` are different (or all but `size`, the others of which
    are then left out): work and memory follow the numbers drawn.
    """
    wanted = min(size, count - size)
    found = np.empty(0, np.int32)
    while found.size < wanted:
        more = integers(source, count, wanted - found.size + 8)
        both = np.append(found, more)
        first = np.sort(np.unique(both, return_index=True)[1])
        found = both[first[:wanted]]
    if wanted == size:
        return np.sort(found)
    kept = np.ones(count, bool)
    kept[found] = False
    return np.flatnonzero(kept).astype(np.int32)


def subsets(source: np.random.Philox, rows: int, count: int, size: int) -> np.ndarray:
    """Return `rows` independent sets of `size` different numbers below `count`.

    All sets are as likely: int32, (rows, size), in no order (Floyd's algorithm). Time
    follows rows * size^2.
    """
    found = np.empty((rows, size), np.int32)
    for place, last in enumerate(range(count - size, count)):
        drawn = integers(source, last + 1, rows)
        taken = (found[:, :place] == drawn[:, None]).any(axis=1)
        found[:, place] = np.where(taken, last, drawn)
    return found
