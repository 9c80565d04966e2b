"""Coins of exactly given probabilities, of random bytes and integers alone."""

import numpy as np

from dpjax.noise.entropy import Source

_DIGIT_BITS = 16
_NARROW = 2**47
"""Denominators up to which a remainder, moved by one digit, fits an int64."""


def coins(source: Source, numerators: np.ndarray, denominator: int) -> np.ndarray:
    """Throw a coin for each numerator, of probability numerator / denominator, exactly.

    A uniform number is compared with the fraction, digit by digit of 16 bits, and drawn
    no further than it takes to tell them apart.

    Args:
      source: Where random bytes come from.
      numerators: (n,) integers in [0, denominator], int64 or Python's.
      denominator: An integer above 0, of any size.

    Returns:
      Booleans (n,).
    """
    dtype = np.int64 if denominator <= _NARROW else object
    result = np.zeros(numerators.size, bool)
    rest, tied = numerators.astype(dtype), np.arange(numerators.size)
    while tied.size:
        moved = rest << _DIGIT_BITS
        digits = moved // denominator
        drawn = np.frombuffer(source.take(2 * tied.size), "<u2").astype(np.int64)
        result[tied] = drawn < digits
        rest = moved - digits * denominator
        # Where nothing is left, the uniform number is at least the fraction.
        equal = (drawn == digits) & (rest > 0)
        tied, rest = tied[equal], rest[equal]
    return result


def coins_of_exp(
    source: Source, numerators: np.ndarray, denominator: int
) -> np.ndarray:
    """Throw a coin of probability exp(-numerator / denominator) for each, exactly.

    exp(-(w + x)) is exp(-1), w times in a row, and exp(-x): for x in [0, 1], throw
    coins of probability x / k for k = 1, 2, ... until tails; k is odd with probability
    1 - x + x^2 / 2 - ... = exp(-x).

    Args:
      source: Where random bytes come from.
      numerators: (n,) integers of at least 0, int64 or Python's.
      denominator: An integer above 0, of any size.

    Returns:
      Booleans (n,).

    References:
      Canonne, Kamath and Steinke (2020), The discrete Gaussian for differential
      privacy, arXiv 2004.00010, algorithm 1.
    """
    whole = numerators // denominator
    result = _coins_of_exp_below_one(source, numerators % denominator, denominator)
    left = np.flatnonzero(result & (whole > 0))
    done = 0
    while left.size:
        ones = np.ones(left.size, np.int64)
        heads = _coins_of_exp_below_one(source, ones, 1)
        result[left] = heads
        done += 1
        left = left[heads & (whole[left] > done)]
    return result


def uniform(source: Source, count: int, size: int) -> np.ndarray:
    """Return `size` integers below `count` <= 2^63, all equally likely: int64."""
    bits = (count - 1).bit_length()
    mask = np.uint64(2**bits - 1)
    found = np.empty(0, np.int64)
    while found.size < size:
        missing = size - found.size
        words = np.frombuffer(source.take(8 * missing), "<u8") & mask
        found = np.append(found, words[words < count].astype(np.int64))
    return found


def _coins_of_exp_below_one(
    source: Source, numerators: np.ndarray, denominator: int
) -> np.ndarray:
    result = np.zeros(numerators.size, bool)
    going, k = np.arange(numerators.size), 1
    while going.size:
        heads = coins(source, numerators[going], denominator)
        if k > 1:
            heads &= coins(source, np.ones(going.size, np.int64), k)
        result[going[~heads]] = k % 2 == 1
        going, k = going[heads], k + 1
    return result
