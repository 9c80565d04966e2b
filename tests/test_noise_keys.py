import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental import multihost_utils

from dpjax.noise import domain_key, key_data, keys, step_key


def words_of(key):
    return tuple(int(word) for word in np.asarray(key_data(key)))


def key_words(key):
    return tuple(int(word) for word in jax.random.key_data(key))


@pytest.mark.parametrize(
    "key",
    [
        7,
        np.int64(7),
        np.uint8(7),
        np.array(7),
        jnp.int32(7),
        jax.random.key(7),
        jax.random.PRNGKey(7),
        np.array([0, 7], np.uint32),
    ],
    ids=lambda key: f"{type(key).__name__}-{getattr(key, 'dtype', '')}",
)
def test_a_seed_its_typed_key_and_its_raw_key_are_the_same_key(key):
    data = key_data(key)
    assert data.dtype == jnp.uint32
    assert data.shape == (2,)
    assert words_of(key) == (0, 7)


@pytest.mark.parametrize(
    "key", [jnp.int32(7), jnp.uint32(7), jax.random.key(7), jax.random.PRNGKey(7)]
)
def test_a_traced_key_gives_the_words_of_the_concrete_one(key):
    assert jax.jit(key_data)(key).tolist() == [0, 7]


@given(st.integers(0, 2**64 - 1))
def test_a_seed_of_64_bits_is_kept_whole(seed):
    high, low = words_of(seed)
    assert (high << 32) + low == seed


def test_large_seeds_do_not_collide_with_small_ones():
    assert words_of(2**32 + 5) == (1, 5)
    assert words_of(2**63) == (2**31, 0)
    assert words_of(np.uint64(2**40)) == (256, 0)


def test_large_seeds_agree_with_jax_where_jax_keeps_64_bits():
    with jax.enable_x64(True):
        seed = jnp.uint64(2**40 + 3)
        assert words_of(jax.random.key(seed)) == words_of(2**40 + 3) == (256, 3)
        assert jax.jit(key_data)(seed).tolist() == [256, 3]


def test_a_key_of_another_implementation_gives_two_words_of_its_own():
    one, two = jax.random.key(1, impl="rbg"), jax.random.key(2, impl="rbg")
    assert words_of(one) == words_of(one)
    assert len({words_of(one), words_of(two), words_of(1), words_of(2)}) == 4


@pytest.mark.parametrize(
    ("key", "error", "expected"),
    [
        (True, TypeError, "integer seed"),
        (np.True_, TypeError, "integer seed"),
        (1.0, TypeError, "integer seed"),
        (jnp.float32(1), TypeError, "integer seed"),
        ("7", TypeError, "integer seed"),
        (-1, ValueError, r"\[0, 2\*\*64\), got key=-1"),
        (np.int32(-1), ValueError, r"\[0, 2\*\*64\)"),
        (2**64, ValueError, r"\[0, 2\*\*64\)"),
        (jnp.zeros(3, jnp.uint32), ValueError, r"key.shape=\(3,\)"),
        (jnp.zeros((1, 2), jnp.uint32), ValueError, r"key.shape=\(1, 2\)"),
        (jnp.zeros(2, jnp.int32), TypeError, "key.dtype='int32'"),
        (jnp.zeros(2), TypeError, "key.dtype='float32'"),
        ([0, 7], TypeError, "key.dtype='list'"),
        (jax.random.split(jax.random.key(0)), ValueError, "not an array of keys"),
        (
            jax.random.key_data(jax.random.key(0, impl="rbg")),
            ValueError,
            r"key.shape=\(4,\)",
        ),
    ],
    ids=repr,
)
def test_what_is_no_key_is_refused(key, error, expected):
    with pytest.raises(error, match=f"Expected .*{expected}"):
        key_data(key)


def test_no_key_draws_fresh_entropy_each_time():
    assert len({words_of(None) for _ in range(20)}) == 20


def test_fresh_entropy_fills_all_64_bits():
    # A bit that is stuck in 100 fair draws has probability 2 * 2**-100.
    draws = np.array([np.asarray(key_data(None)) for _ in range(100)])
    assert np.bitwise_or.reduce(draws).tolist() == [2**32 - 1] * 2
    assert np.bitwise_and.reduce(draws).tolist() == [0, 0]


@pytest.mark.parametrize(
    "transform",
    [
        jax.jit,
        jax.grad,
        lambda fun: lambda x: jax.vmap(fun)(jnp.stack([x, x])),
        lambda fun: lambda x: jax.lax.scan(lambda c, _: (fun(c), 0), x, length=2),
        lambda fun: lambda x: jax.eval_shape(fun, x),
    ],
    ids=["jit", "grad", "vmap", "scan", "eval_shape"],
)
def test_no_key_is_refused_under_a_trace(transform):
    def fun(x):
        key_data(None)
        return x

    with pytest.raises(TypeError, match="explicit key under a trace"):
        transform(fun)(1.0)


def test_fresh_entropy_is_what_the_first_process_broadcasts(monkeypatch):
    sent = []

    def broadcast(words):
        sent.append(words)
        return np.array([3, 4], np.uint32)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", broadcast)
    assert words_of(None) == (3, 4)
    assert sent[0].dtype == np.uint32
    assert sent[0].shape == (2,)


PROCESS = """
import sys, jax
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
from dpjax.noise import key_data
print("words", key_data(None).tolist(), key_data(None).tolist())
"""


def test_two_processes_draw_the_same_fresh_key():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(index)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        lines = [each.communicate(timeout=100)[0].splitlines() for each in processes]
    finally:
        for each in processes:
            each.kill()
    said = [[line for line in out if line.startswith("words")] for out in lines]
    assert said[0]
    assert said[0] == said[1]
    assert len(set(said[0][0].split("["))) == 3  # two draws of one process differ


def test_folding_runs_the_published_threefry_with_20_rounds():
    # Random123, kat_vectors: threefry2x32 20, counter 0 0, key 0 0.
    zero = jax.random.wrap_key_data(jnp.zeros(2, jnp.uint32), impl="threefry2x32")
    assert key_words(jax.random.fold_in(zero, 0)) == (0x6B200159, 0x99BA4EFE)


def test_names_are_folded_in_as_64_bits_of_sha256():
    # sha256("abc") = ba7816bf 8f01cfea ... (FIPS 180-2, appendix B.1)
    assert keys.hash_words("abc").tolist() == [0xBA7816BF, 0x8F01CFEA]


def test_domains_are_separate():
    names = ["dpjax.noise.gaussian", "dpjax.sampling", "", "a", "b"]
    assert len({key_words(domain_key(key_data(1), name)) for name in names}) == 5


def test_steps_are_separate_whether_traced_or_not():
    data = key_data(1)
    draw = jax.jit(lambda step: jax.random.key_data(step_key(data, "a", step)))
    drawn = np.asarray(jax.vmap(draw)(jnp.arange(1000)))
    assert len({tuple(words) for words in drawn}) == 1000
    for step in (0, 1, 999, np.int64(999), jnp.uint32(999)):
        assert key_words(step_key(data, "a", step)) == tuple(drawn[int(step)])


def test_the_last_step_is_two_to_the_32_minus_one():
    data = key_data(1)
    last = key_words(step_key(data, "a", 2**32 - 1))
    assert last != key_words(step_key(data, "a", 0))
    with pytest.raises(ValueError, match=r"Expected an integer < 2\*\*32"):
        step_key(data, "a", 2**32)


@pytest.mark.parametrize(
    ("step", "error"), [(-1, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_what_is_no_step_is_refused(step, error):
    with pytest.raises(error, match=r"Expected an integer.*got step="):
        step_key(key_data(1), "a", step)


@pytest.mark.parametrize(
    ("step", "error"),
    [(jnp.float32(1), TypeError), (jnp.arange(2), ValueError)],
    ids=["float", "vector"],
)
def test_what_is_no_step_is_refused_under_a_trace(step, error):
    with pytest.raises(error, match=r"Expected .*got step\."):
        jax.jit(lambda step: step_key(key_data(1), "a", step))(step)


@pytest.mark.parametrize(
    ("data", "error"),
    [(jax.random.key(1), TypeError), (jnp.zeros(3, "u4"), ValueError)],
)
def test_domain_keys_come_from_key_words_only(data, error):
    with pytest.raises(error, match=r"Expected .*got key"):
        domain_key(data, "a")


@pytest.mark.parametrize("key", [jax.random.key(7), jax.random.PRNGKey(7)])
def test_who_donates_the_words_of_a_key_keeps_the_key(key):
    jax.jit(lambda words: words + 1, donate_argnums=0)(key_data(key))
    assert not key.is_deleted()
    assert words_of(key) == (0, 7)
