"""An order of very many things, of which any place can be asked for."""

import math

import numpy as np

from dpjax.sampling import streams

_ROUNDS = 8


class Permutation:
    """A random-looking permutation of 0, ..., count - 1, in memory of count^(1/2).

    Numbers below s^2 >= count, with s the least such, are pairs of digits below s. Each
    round adds to one digit a random function of the other (a Feistel network), which
    permutes the pairs; what lands at or above `count` goes through again, which leaves
    a permutation of those below. The functions are tables of uniform numbers: after a
    few rounds no order is seen in it (Luby and Rackoff), but there are far fewer such
    permutations than orders. So it may shuffle, and no privacy may be counted on it.

    Args:
      source: random words, all of which belong to this permutation.
      count: how many things, from 1 to 2**31 - 1.

    References:
      Luby and Rackoff 1988, "How to construct pseudorandom permutations from
      pseudorandom functions", SIAM J. Comput. 17(2); Black and Rogaway 2002, "Ciphers
      with arbitrary finite domains", for the walk back into the range.

    >>> order = Permutation(streams.stream(np.array([1, 2], np.uint32), b"doc", 0), 10)
    >>> sorted(order(np.arange(10)).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    def __init__(self, source: np.random.Philox, count: int) -> None:
        self._count = count
        self._side = side = math.isqrt(count - 1) + 1
        self._tables = [streams.integers(source, side, side) for _ in range(_ROUNDS)]

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Return what stands at `places`, integers `(n,)`: int32, `(n,)`."""
        found = self._once(places.astype(np.int64))
        while (outside := found >= self._count).any():
            found[outside] = self._once(found[outside])
        return found.astype(np.int32)

    def _once(self, numbers: np.ndarray) -> np.ndarray:
        left, right = np.divmod(numbers, self._side)
        for table in self._tables:
            left, right = right, (left + table[right]) % self._side
        return left * self._side + right
