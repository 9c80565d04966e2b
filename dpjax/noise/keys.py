"""Keys: where the randomness of the noise comes from.

A key is held as its data, two uint32 words, because plain arrays are what checkpoints,
pickles and `flax.serialization` all keep. Everything else is derived from them:

    key words --domain--> --step--> --path of the leaf--> the values of one leaf

Each arrow is one or two encryptions by threefry2x32 with 20 rounds: the first two are
`jax.random.fold_in`, the last is in `draws`.
"""

import hashlib
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.extend.core import get_opaque_trace_state

from dpjax import _check
from dpjax.noise import entropy
from dpjax.types import KeyLike

_IMPL = "threefry2x32"
_KEY = "a scalar PRNG key, an integer seed, or uint32 key data of shape (2,)"


def key_data(key: KeyLike | None) -> jax.Array:
    """Return the two words that determine all randomness derived from `key`.

    An integer seed, its typed key `jax.random.key(seed)` and the words of that key give
    the same words. Seeds of up to 64 bits are kept whole, so that no two of them
    collide (`jax.random.key(2**32)` is `jax.random.key(0)` unless x64 is on).

    Args:
      key: An int in [0, 2**64); a zero-dimensional integer array (it may be traced, and
        is then read modulo 2**32 or, with x64, 2**64); a scalar typed key; or raw key
        data, uint32 of shape (2,). From a typed key of another implementation than
        threefry2x32, two words are drawn. None takes 64 bits of fresh entropy from the
        operating system: one draw, shared by all processes.

    Returns:
      Key words: uint32 array of shape (2,), of its own: who donates it keeps the key.

    Raises:
      TypeError: `key` is a bool, a float, anything else that is not listed, or is None
        under a trace, where the draw would be frozen into the compiled program (or
        shared by what `vmap` maps over).
      ValueError: A seed outside [0, 2**64), or an array of the wrong shape.
      EntropyError: `key` is None and the operating system has no secure source.

    >>> key_data(7)
    Array([0, 7], dtype=uint32)
    """
    if key is None:
        return _fresh_words()
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return _typed_key_words(key)
    if np.ndim(key):
        return jnp.array(_checked_words(key))
    return _seed_words(key)


def domain_key(data: jax.Array, domain: str) -> jax.Array:
    """Return the key of one domain: what is drawn in two domains is independent.

    Args:
      data: Key words: uint32 array of shape (2,); see `key_data`.
      domain: The name of the domain, such as "dpjax.noise.gaussian".

    Returns:
      A typed threefry2x32 key: `data` with 64 bits of SHA-256 of the name folded in.

    Raises:
      TypeError: `data` is not uint32.
      ValueError: `data` is not of shape (2,).
    """
    key = jax.random.wrap_key_data(_checked_words(data), impl=_IMPL)
    return fold_words(key, hash_words(domain))


def step_key(data: jax.Array, domain: str, step: int | jax.Array) -> jax.Array:
    """Return the key of one step in one domain.

    Args:
      data: Key words: uint32 array of shape (2,); see `key_data`.
      domain: The name of the domain.
      step: Index of the step, in [0, 2**32): an int or a zero-dimensional integer
        array. A traced step is read modulo 2**32.

    Returns:
      A typed threefry2x32 key: `fold_in(domain_key(data, domain), step)`.

    Raises:
      TypeError: `step` is not an integer.
      ValueError: `step` is outside [0, 2**32) or not a scalar.
    """
    if isinstance(step, jax.core.Tracer):
        if not jnp.issubdtype(step.dtype, jnp.integer):
            _check.fail("an integer step", "step.dtype", str(step.dtype), TypeError)
        if step.ndim:
            _check.fail("a scalar step", "step.shape", step.shape)
    elif _check.integer("step", step, minimum=0) >= 2**32:
        _check.fail("an integer < 2**32", "step", step)
    return jax.random.fold_in(domain_key(data, domain), jnp.asarray(step, jnp.uint32))


def hash_words(name: str) -> np.ndarray:
    """Return the first 64 bits of SHA-256 of `name` as uint32 words of shape (2,)."""
    return np.frombuffer(hashlib.sha256(name.encode()).digest()[:8], ">u4").astype("u4")


def fold_words(key: jax.Array, words: jax.Array | np.ndarray) -> jax.Array:
    """Return `key` with two uint32 words folded in, one after the other."""
    return jax.random.fold_in(jax.random.fold_in(key, words[0]), words[1])


def _fresh_words() -> jax.Array:
    """Return 64 bits from the operating system, the same in every process."""
    if not _is_eager():
        _check.fail("an explicit key under a trace (jit, vmap)", "key", None, TypeError)
    words = np.frombuffer(entropy.secure_bytes(8), np.uint32)
    if jax.process_count() > 1:
        words = multihost_utils.broadcast_one_to_all(words)
    return jnp.asarray(words)


def _is_eager() -> bool:
    """Tell whether no transformation (jit, vmap, grad, scan) is tracing this call."""
    here = get_opaque_trace_state()
    with jax.core.eval_context():
        return bool(here == get_opaque_trace_state())


def _seed_words(seed: Any) -> jax.Array:
    """Return the words of an integer, high word first, as `jax.random.key` does."""
    dtype = getattr(seed, "dtype", np.dtype(int))
    if isinstance(seed, bool) or not jnp.issubdtype(dtype, jnp.integer):
        _check.fail(_KEY, "key", seed, TypeError)
    if isinstance(seed, jax.core.Tracer):
        high = seed >> 32 if seed.dtype.itemsize == 8 else jnp.zeros_like(seed)
        return jnp.stack([high, seed]).astype(jnp.uint32)
    try:
        number = operator.index(seed)
    except TypeError:
        _check.fail(_KEY, "key", seed, TypeError)
    if not 0 <= number < 2**64:
        _check.fail("an integer seed in [0, 2**64)", "key", number)
    return jnp.asarray(np.array([number >> 32, number & 0xFFFFFFFF], np.uint32))


def _typed_key_words(key: jax.Array) -> jax.Array:
    """Return the words of a scalar typed key of any implementation."""
    if key.ndim:
        _check.fail("one key, not an array of keys", "key.shape", key.shape)
    if str(jax.random.key_impl(key)) == _IMPL:
        return jnp.array(jax.random.key_data(key))
    return jax.random.bits(key, (2,), jnp.uint32)


def _checked_words(data: Any) -> jax.Array:
    """Return `data` after a check that it is the data of one threefry2x32 key."""
    if not hasattr(data, "dtype") or data.dtype != np.uint32:
        got = getattr(data, "dtype", type(data).__name__)
        _check.fail(_KEY, "key.dtype", str(got), TypeError)
    if data.shape != (2,):
        _check.fail(_KEY, "key.shape", data.shape)
    return jnp.asarray(data)
