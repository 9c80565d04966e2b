"""Bytes that nobody can predict: the operating system's, or a stream made of a key."""

import hashlib
import os
from typing import Protocol

from dpjax import _check

_BLOCK = 1 << 16


class EntropyError(RuntimeError):
    """The operating system has no secure source of random bytes, or it failed.

    There is no fallback: noise that can be predicted can be taken off again.
    """


class Source(Protocol):
    """Where random bytes come from."""

    def take(self, count: int) -> bytes:
        """Return `count` bytes that no earlier call has returned."""


class SystemSource:
    """Bytes of the operating system's generator, every one of them: no key to find.

    What is drawn of it cannot be drawn again.
    """

    def take(self, count: int) -> bytes:
        """Return `count` bytes of `secure_bytes`."""
        return secure_bytes(count)


class KeyedSource:
    """SHAKE-256 of a seed and a counter: the same bytes whenever it is made again.

    Args:
      seed: what the bytes are a function of; the seed of no other stream may be it.

    Guarantee: bytes of different seeds, of which one part is secret and uniform, are
    as good as independent and uniform to whoever cannot try all values of that part:
    a dpjax key has 64 bits.

    References:
      NIST FIPS 202 (2015), SHA-3 standard: permutation-based hash and extendable-output
      functions.

    >>> KeyedSource(b"one").take(4) == KeyedSource(b"two").take(4)
    False
    """

    def __init__(self, seed: bytes) -> None:
        self._prefix = hashlib.sha256(seed).digest()
        self._blocks = 0
        self._rest = b""

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes, however they were asked for before."""
        pieces, missing = [self._rest], count - len(self._rest)
        while missing > 0:
            pieces.append(self._block())
            missing -= _BLOCK
        joined = b"".join(pieces)
        self._rest = joined[count:]
        return joined[:count]

    def _block(self) -> bytes:
        counter = self._blocks.to_bytes(16, "little")
        self._blocks += 1
        return hashlib.shake_256(self._prefix + counter).digest(_BLOCK)


def secure_bytes(count: int) -> bytes:
    """Return bytes of the operating system's cryptographic generator.

    Args:
      count: how many, at least 0.

    Raises:
      EntropyError: there is no such generator, or it failed.
      ValueError: `count` is negative.

    >>> len(secure_bytes(8))
    8
    """
    count = _check.integer("count", count, minimum=0)
    try:
        drawn = os.urandom(count)
    except (NotImplementedError, OSError) as error:
        raise EntropyError(
            "Expected a secure source of random bytes in the operating system, got "
            f"os.urandom: {error!r}. There is no fallback; a key of your own can be "
            "passed, if it is secret and uniformly drawn."
        ) from error
    if len(drawn) != count:
        raise EntropyError(f"Expected {count} random bytes, got len={len(drawn)}.")
    return drawn
