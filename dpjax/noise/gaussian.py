"""Independent Gaussian noise, a pure function of (key, step, path of the leaf)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check
from dpjax.noise import draws, keys, threefry
from dpjax.types import ArrayTree

DOMAIN = "dpjax.noise.gaussian"
"""Names the stream of the Gaussian noise; sampling and other noises have others."""


def gaussian_noise(
    data: jax.Array, step: int | jax.Array, like: ArrayTree, stddev: float | jax.Array
) -> ArrayTree:
    """Draw `stddev * N(0, I)`, shaped like a pytree.

    The values of a leaf depend on the key, the step, the leaf's path in the pytree, its
    shape and its dtype: not on the other leaves, on jit, nor on how it is sharded. They
    are the same to the last bit on one kind of hardware; on another, to rounding.

    Args:
      data: Key words: uint32 array of shape (2,); see `key_data`.
      step: Index of the step, in [0, 2**32); it may be traced.
      like: Pytree of floating-point or complex arrays, or `jax.ShapeDtypeStruct`s. Only
        paths, shapes and dtypes are read.
      stddev: Standard deviation of each value, >= 0; it may be traced (a traced value
        is not checked). For complex leaves, that of the real and the imaginary part
        each, which are independent.

    Returns:
      A pytree like `like`, of its dtypes but at least 32 bits wide: bfloat16 and
      float16 leaves give float32.

    Raises:
      TypeError: A leaf, `step` or `stddev` of the wrong kind.
      ValueError: `like` has no leaf or two leaves whose paths read the same; `step` out
        of range; `stddev` negative, not finite, not a scalar, or one that is lost in
        the precision of a leaf.

    Guarantee:
      Given a secret, uniformly drawn key: every value is normal with the stated
      standard deviation, and values of different leaves, steps and keys are
      independent, up to what threefry2x32 lets tell apart and up to floating point. The
      latter is no small print: a float32 draw is one of 2**64 values rounded to 24
      bits, none beyond 6.77 standard deviations (a normal one is with probability
      1.4e-11); a float64 draw, none beyond 9.2. Attacks on that lattice (Mironov 2012)
      are outside of what any epsilon of this library counts.

    References:
      Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (threefry).
      Mironov 2012, "On significance of the least significant bits for differential
      privacy".

    >>> import jax.numpy as jnp
    >>> noise = gaussian_noise(keys.key_data(0), 3, {"w": jnp.zeros((2, 5))}, 1.5)
    >>> noise["w"].shape
    (2, 5)
    """
    return domain_noise(DOMAIN, data, step, like, stddev)


def domain_noise(
    domain: str,
    data: jax.Array,
    step: int | jax.Array,
    like: ArrayTree,
    stddev: float | jax.Array,
) -> ArrayTree:
    """Draw what `gaussian_noise` does, in a domain of another name.

    Args:
      domain: Name of the domain: noises of two domains are independent.
      data: As in `gaussian_noise`, like all that follow.
      step: Index of the step.
      like: Pytree whose paths, shapes and dtypes are read.
      stddev: Standard deviation of each value.
    """
    _check.float_leaves("like", like)
    paths_and_leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
    key = jax.random.key_data(keys.step_key(data, domain, step))
    leaf_keys = _leaf_keys(key, [path for path, _ in paths_and_leaves])
    dtypes = [jnp.result_type(leaf) for _, leaf in paths_and_leaves]
    specs = [
        _spec(np.shape(leaf), dtype)
        for (_, leaf), dtype in zip(paths_and_leaves, dtypes, strict=True)
    ]
    normals = draws.standard_normals(leaf_keys, tuple(specs))
    noise = [
        _scaled(values, dtype, stddev)
        for values, dtype in zip(normals, dtypes, strict=True)
    ]
    return jax.tree.unflatten(treedef, noise)


def _leaf_keys(key: jax.Array, paths: list[Any]) -> jax.Array:
    """Return the key of each leaf, (leaves, 2): the block of its path's hash."""
    words = jnp.asarray(_path_words(paths))
    block = threefry.threefry2x32((key[0], key[1]), (words[:, 0], words[:, 1]))
    return jnp.stack(block, axis=1)


def _path_words(paths: list[Any]) -> np.ndarray:
    """Return the hash words of each path, (leaves, 2), all of them different."""
    names = [jax.tree_util.keystr(path) for path in paths]
    hashes = [keys.hash_words(name) for name in names]
    seen: set[bytes] = set()
    for name, digest in zip(names, hashes, strict=True):
        if digest.tobytes() in seen:
            _check.fail("leaves whose paths read differently", "two paths", name)
        seen.add(digest.tobytes())
    return np.stack(hashes)


def _spec(shape: tuple[int, ...], dtype: Any) -> draws.Spec:
    """Return shape and dtype of the real values that the noise of a leaf is made of."""
    real = np.dtype(np.float64 if jnp.finfo(dtype).bits == 64 else np.float32)
    return ((2, *shape) if _is_complex(dtype) else shape), real


def _scaled(values: jax.Array, dtype: Any, stddev: float | jax.Array) -> jax.Array:
    """Return `stddev` times `values`; for a complex leaf, these are its two parts."""
    noise = _scale(stddev, values.dtype) * values
    return jax.lax.complex(noise[0], noise[1]) if _is_complex(dtype) else noise


def _scale(stddev: float | jax.Array, dtype: Any) -> jax.Array:
    """Return `stddev` as a scalar of `dtype`, checked as far as it is static."""
    if np.ndim(stddev):
        _check.fail("a scalar standard deviation", "stddev.shape", np.shape(stddev))
    if isinstance(stddev, jax.core.Tracer):
        if jnp.issubdtype(stddev.dtype, jnp.complexfloating):
            _check.fail("a real number", "stddev.dtype", str(stddev.dtype), TypeError)
        return jnp.asarray(stddev, dtype)
    number = _check.non_negative("stddev", stddev)
    limits = np.finfo(dtype)
    if number and not float(limits.tiny) <= number <= float(limits.max):
        _check.fail(f"a standard deviation that {dtype} holds", "stddev", stddev)
    return jnp.asarray(number, dtype)


def _is_complex(dtype: Any) -> bool:
    """Tell whether a leaf's values have two parts."""
    return bool(jnp.issubdtype(dtype, jnp.complexfloating))
