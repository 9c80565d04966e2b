"""The coins that decide which canaries are in, and the guesses about them."""

import secrets
from typing import NamedTuple

import numpy as np

from dpjax import _check

_SEED_BITS = 63
_DOMAIN = int.from_bytes(b"coin")  # no other generator begins where this one does


class AuditError(ValueError):
    """An audit cannot tell anything, or cannot be repeated."""


def coin_seed(seed: int | None) -> int:
    """Return the seed of the coins: the one given, or a fresh one from the system."""
    if seed is None:
        return secrets.randbits(_SEED_BITS)
    return _check.integer("coin_seed", seed, minimum=0)


def flip(count: int, seed: int) -> np.ndarray:
    """Return one fair coin a canary: bool, (count,), True for in.

    Whoever trains must not know the seed: the bounds hold for coins that are unknown.

    Raises:
      AuditError: all fell on one side, so that there is nothing to tell apart.

    Example:
      >>> flip(8, 0)
      array([False, False,  True,  True, False,  True,  True,  True])
    """
    return checked_coins(np.random.default_rng((_DOMAIN, seed)).random(count) < 0.5)


def checked_coins(coins: np.ndarray) -> np.ndarray:
    """Return coins of which some are in and some out.

    Raises:
      AuditError: all are in, or all out.
    """
    num_in = int(np.sum(coins))
    if num_in in (0, len(coins)):
        raise AuditError(
            f"Expected canaries in and out, got {num_in} of {len(coins)} in."
        )
    return coins


def default_guesses(count: int) -> int:
    """Return how many guesses to make about `count` canaries.

    A fifth of them, but not below 50 where there are as many: near the best for
    Gaussian scores between mu 0.4 and 2.5, where making a tenth or a third costs
    little, and guessing all costs half of the bound.
    """
    return max(round(count / 5), min(count, 50))


class Guessed(NamedTuple):
    """How many guesses were made, and how many were right."""

    guesses: int
    correct: int


def guess(scores: np.ndarray, coins: np.ndarray, num_guesses: int) -> Guessed:
    """Guess "in" for the highest scores and "out" for the lowest, half of each.

    Args:
      scores: (m,) finite, larger for what seems to be in.
      coins: (m,) bool.
      num_guesses: at most m, fixed before the scores were seen; of an odd number, one
        more is guessed in. Ties are broken by position, which says nothing of coins.
    """
    order = np.argsort(scores, kind="stable")
    num_out = num_guesses // 2
    right_in = coins[order[len(order) - (num_guesses - num_out) :]].sum()
    return Guessed(num_guesses, int(right_in + (~coins[order[:num_out]]).sum()))
