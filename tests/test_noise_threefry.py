import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import random as jax_random

from dpjax.noise import threefry

# Random123, kat_vectors: threefry2x32 20: counter, key, block.
PUBLISHED = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


def words(pair):
    return tuple(jnp.uint32(word) for word in pair)


def random_words(*shape):
    return np.random.default_rng(0).integers(0, 2**32, shape, dtype=np.uint32)


def counters_at(places, shape):
    """Return the counters of some places, as Python integers."""
    coordinates = [jnp.asarray(axis, jnp.uint32) for axis in zip(*places, strict=True)]
    high, low = threefry.counters(coordinates, shape)
    return [int(h) << 32 | int(w) for h, w in zip(high, low, strict=True)]


def corners(shape):
    return list(itertools.product(*[sorted({0, n // 2, n - 1}) for n in shape]))


@pytest.mark.parametrize(("counter", "key", "block"), PUBLISHED)
@pytest.mark.parametrize("compiled", [False, True])
def test_published_blocks_are_reproduced(counter, key, block, compiled):
    encrypt = jax.jit(threefry.threefry2x32) if compiled else threefry.threefry2x32
    assert tuple(map(int, encrypt(words(key), words(counter)))) == block


def test_blocks_are_those_of_jax():
    key, (high, low) = random_words(2), random_words(2, 1000)
    block = jax.jit(threefry.threefry2x32)((key[0], key[1]), (high, low))
    # It pairs the first half of the words with the second one.
    expected = jax_random.threefry_2x32(key, jnp.concatenate([high, low]))
    np.testing.assert_array_equal(jnp.concatenate(block), expected)


def test_every_row_may_have_a_key_of_its_own():
    keys, (high, low) = random_words(3, 2), random_words(2, 3, 5)
    rows = threefry.threefry2x32((keys[:, :1], keys[:, 1:]), (high, low))
    for i, key in enumerate(keys):
        row = threefry.threefry2x32((key[0], key[1]), (high[i], low[i]))
        np.testing.assert_array_equal(np.stack(rows)[:, i], np.stack(row))


@pytest.mark.parametrize(
    "shape",
    [
        (),
        (1,),
        (7,),
        (2, 3, 5),
        (2**32,),
        (2**31, 2),
        (1, 2**16, 2**16),
        (3, 1431655765),
    ],
    ids=str,
)
def test_up_to_32_bits_the_counter_is_the_flat_index(shape):
    places = corners(shape)
    if not shape:
        assert [int(word) for word in threefry.counters([], ())] == [0, 0]
        return
    expected = [int(np.ravel_multi_index(place, shape)) for place in places]
    assert counters_at(places, shape) == expected


@pytest.mark.parametrize(
    "shape",
    [
        (2, 2**32),
        (2**32, 2),
        (2**23, 1024),  # How a vector of 2**33 values is computed.
        (3, 2**30 + 1, 5),
        (5, 7, 2**20, 2**13),
        (2**32, 2**32),
    ],
    ids=str,
)
def test_beyond_32_bits_no_two_values_share_a_counter(shape):
    assert math.prod(shape) > 2**32
    places = corners(shape)
    counts = counters_at(places, shape)
    assert len(set(counts)) == len(places)
    # The words can be taken apart again: low over the last axes, high over the others.
    first = next(a for a in range(len(shape)) if math.prod(shape[a:]) <= 2**32)
    for place, count in zip(places, counts, strict=True):
        high, low = divmod(count, 2**32)
        leading = [int(i) for i in np.unravel_index(high, shape[:first])]
        trailing = [int(i) for i in np.unravel_index(low, shape[first:])]
        assert (*leading, *trailing) == place


@pytest.mark.parametrize("shape", [(2**33,), (3, 2**32, 32), (2**32 + 1, 2)], ids=str)
def test_what_32_bits_cannot_index_is_refused(shape):
    with pytest.raises(ValueError, match="Expected leading axes that 32 bits can"):
        threefry.counters([jnp.zeros(1, jnp.uint32)] * len(shape), shape)
