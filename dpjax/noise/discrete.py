"""Discrete Gaussian noise: integers, drawn exactly, for those who fear floating point.

Everything here is arithmetic of integers on the host. No number is rounded, and none of
a float32's lattice is left in what is released (Mironov 2012).
"""

import fractions
import math
from typing import Any

import jax
import numpy as np

from dpjax import _check
from dpjax.noise import entropy
from dpjax.noise.coins import coins_of_exp, uniform
from dpjax.noise.entropy import Source
from dpjax.types import ArrayTree

_DOMAIN = b"dpjax.noise.discrete\0"
_VARIANCE_BITS = 16
_LARGEST = 2.0**40
_MOST_CANDIDATES = 1 << 19


def discrete_gaussian_noise(
    data: Any, step: int, like: ArrayTree, stddev: float
) -> ArrayTree:
    """Draw integers of the discrete Gaussian distribution, shaped like a pytree.

    P(x) is proportional to exp(-x^2 / (2 s^2)) on the integers, with s^2 the square of
    `stddev`, rounded up by a relative 2^-15 at most, to a number of 16 bits: what comes
    out has at least the noise that was asked for.

    Args:
      data: Key words: uint32 of shape (2,); see `key_data`. None takes every byte from
        the operating system instead: no key to find, and nothing to draw again.
      step: Index of the step, in [0, 2**32).
      like: Pytree of arrays or `jax.ShapeDtypeStruct`s: only paths and shapes are read.
      stddev: s in (0, 2**40], in steps of the grid. For s above 1, the standard
        deviation is s to a relative 1e-7; below, the distribution is narrower.

    Returns:
      A pytree like `like` of int64 NumPy arrays.

    Raises:
      TypeError: `data`, `step` or `stddev` of the wrong kind.
      ValueError: no leaf, two leaves whose paths read the same, a number out of range.
      EntropyError: `data` is None and there is no secure source.

    Guarantee:
      A pytree of integers that moves by at most D in L2 norm, with this noise added, is
      (D / stddev)^2 / 2-zCDP (`dp_accounting.ZCDpEvent`): the Renyi divergence of order
      a of two discrete Gaussians, n integers apart, is at most a n^2 / (2 s^2), as that
      of continuous ones is, and adds up over coordinates. The sampler is exact: given
      uniform bytes, its distribution is this one, and not next to it. Bytes of a key
      are as good as its 64 bits. How long it takes depends on what it draws.

    References:
      Canonne, Kamath and Steinke (2020), The discrete Gaussian for differential
      privacy, arXiv 2004.00010: algorithms 1 to 3, proposition 5, theorem 14.

    >>> noise = discrete_gaussian_noise(np.array([0, 7], np.uint32), 3,
    ...     {"w": np.zeros((2, 5))}, 10.0)
    >>> noise["w"].shape, noise["w"].dtype
    ((2, 5), dtype('int64'))
    """
    variance = rounded_variance(stddev)
    if _check.integer("step", step, minimum=0) >= 2**32:
        _check.fail("an integer < 2**32", "step", step)
    paths, treedef = jax.tree_util.tree_flatten_with_path(like)
    names = [_check.path_name(path) for path, _ in paths]
    if not names:
        _check.fail("a pytree with at least one array", "like", like)
    if len(set(names)) < len(names):
        _check.fail("leaves whose paths read differently", "like", names)
    drawn = []
    for name, (_, leaf) in zip(names, paths, strict=True):
        shape = np.shape(leaf)
        source = _source(data, step, name)
        drawn.append(
            discrete_gaussian(source, variance, math.prod(shape)).reshape(shape)
        )
    return jax.tree.unflatten(treedef, drawn)


def discrete_gaussian(
    source: Source, variance: fractions.Fraction | int, count: int
) -> np.ndarray:
    """Draw `count` independent integers with P(x) ~ exp(-x^2 / (2 variance)).

    Args:
      source: Where random bytes come from.
      variance: s^2 > 0, of which nothing is rounded.
      count: How many, at least 0.

    Returns:
      int64 array (count,).
    """
    found, missing = [np.zeros(0, np.int64)], count
    scale = math.isqrt(math.floor(variance)) + 1
    while missing > 0:
        size = min(2 * missing + 64, _MOST_CANDIDATES)
        candidates = _discrete_laplace(source, scale, size)
        kept = candidates[_accepted(source, candidates, variance, scale)][:missing]
        found.append(kept)
        missing -= kept.size
    return np.concatenate(found)


def rounded_variance(stddev: float) -> fractions.Fraction:
    """Return the square of `stddev` as a fraction of 16 bits or 17, rounded up.

    >>> rounded_variance(100.0), rounded_variance(0.5)
    (Fraction(10000, 1), Fraction(1, 4))
    """
    number = _check.positive("stddev", stddev)
    if not 1 / _LARGEST <= number <= _LARGEST:
        _check.fail("a number in [2**-40, 2**40]", "stddev", stddev)
    exact = fractions.Fraction(number) ** 2
    exponent = exact.numerator.bit_length() - exact.denominator.bit_length()
    unit = fractions.Fraction(2) ** (exponent - _VARIANCE_BITS)
    return math.ceil(exact / unit) * unit


def _accepted(
    source: Source,
    candidates: np.ndarray,
    variance: fractions.Fraction | int,
    scale: int,
) -> np.ndarray:
    """Return which candidates y are kept: exp(-(|y| - s^2 / t)^2 / (2 s^2)).

    With s^2 = p / q that exponent is (|y| q t - p)^2 over 2 p q t^2.
    """
    p, q = variance.numerator, variance.denominator
    largest = int(np.abs(candidates).max(initial=0)) * q * scale + p
    denominator = 2 * p * q * scale**2
    dtype = np.int64 if max(largest**2, denominator) < 2**63 else object
    gaps = np.abs(candidates).astype(dtype) * (q * scale) - p
    return coins_of_exp(source, gaps * gaps, denominator)


def _discrete_laplace(source: Source, scale: int, count: int) -> np.ndarray:
    """Return integers with P(x) ~ exp(-|x| / scale): of `count` trials, the good."""
    below = uniform(source, scale, count)
    below = below[coins_of_exp(source, below, scale)]
    sizes = below + scale * _geometric(source, below.size)
    negative = uniform(source, 2, sizes.size) == 1
    signed = np.where(negative, -sizes, sizes)
    return signed[~(negative & (sizes == 0))]


def _geometric(source: Source, count: int) -> np.ndarray:
    """Return how often in a row a coin of probability exp(-1) shows heads."""
    result = np.zeros(count, np.int64)
    going = np.arange(count)
    while going.size:
        heads = coins_of_exp(source, np.ones(going.size, np.int64), 1)
        going = going[heads]
        result[going] += 1
    return result


def _source(data: Any, step: int, name: str) -> Source:
    """Return the bytes of one leaf: of the operating system, or of a key."""
    if data is None:
        return entropy.SystemSource()
    words = np.asarray(data)
    if words.dtype != np.uint32:
        _check.fail("uint32 key data", "data.dtype", str(words.dtype), TypeError)
    if words.shape != (2,):
        _check.fail("key data of shape (2,)", "data.shape", words.shape)
    parts = words.astype("<u4").tobytes(), step.to_bytes(8, "little"), name.encode()
    return entropy.KeyedSource(_DOMAIN + b"".join(parts))
