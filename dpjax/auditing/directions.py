"""Directions in the space of parameters, one a canary, never held as a matrix."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check
from dpjax.auditing.canaries import GradientCanaries
from dpjax.types import ArrayTree, Params

_AT_ONCE = 64
_DOMAIN = int.from_bytes(b"directions")


@dataclasses.dataclass(frozen=True)
class Directions:
    """Unit vectors d_i in the space of flattened parameters, functions of (seed, i).

    Attributes:
      canaries: their number, kind and seed.
      positions: (m,) the coordinate of each, for "dirac"; empty for "random".
    """

    canaries: GradientCanaries
    positions: np.ndarray

    @classmethod
    def make(cls, canaries: GradientCanaries, params: Params) -> "Directions":
        """Choose the directions for `params`.

        Raises:
          ValueError: there are more Dirac canaries than parameters.
          TypeError: parameters that are not real floating-point numbers.
        """
        _check.real_leaves("params", params)
        size = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
        if canaries.direction == "random":
            return cls(canaries, np.empty(0, np.int32))
        if canaries.count > size:
            expected = f"at most one Dirac canary for each of the {size} parameters"
            _check.fail(expected, "count", canaries.count)
        generator = np.random.default_rng((_DOMAIN, canaries.seed))
        chosen = generator.choice(size, canaries.count, replace=False)
        return cls(canaries, chosen.astype(np.int32))

    def inner(self, tree: ArrayTree, number: Any) -> jax.Array:
        """Return <d_i, tree>, float32 at least; i may be traced, and is in [0, m)."""
        if self.canaries.direction == "dirac":
            return _coordinate(tree, jnp.asarray(self.positions)[number])
        return _along_random(tree, self.canaries.seed, number)

    def products(self, tree: ArrayTree) -> np.ndarray:
        """Return the inner products of all directions with one tree, (m,) float64."""
        if self.canaries.direction == "dirac":
            leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(tree)]
            return np.concatenate(leaves)[self.positions].astype(np.float64)

        @jax.jit
        def all_of(tree: ArrayTree) -> jax.Array:
            def one(number: jax.Array) -> jax.Array:
                return self.inner(tree, number)

            numbers = jnp.arange(self.canaries.count)
            return jax.lax.map(one, numbers, batch_size=_AT_ONCE)

        return np.asarray(all_of(tree), np.float64)


def _wide(leaf: Any) -> jax.Array:
    return leaf.astype(jnp.promote_types(jnp.result_type(leaf), jnp.float32))


def _coordinate(tree: ArrayTree, position: jax.Array) -> jax.Array:
    """Return one coordinate of a flattened tree."""
    found, start = jnp.zeros(()), 0
    for leaf in map(_wide, map(jnp.asarray, jax.tree.leaves(tree))):
        if not leaf.size:
            continue
        place = position - start
        value = leaf.reshape(-1)[jnp.clip(place, 0, leaf.size - 1)]
        found = found + jnp.where((place >= 0) & (place < leaf.size), value, 0)
        start += leaf.size
    return found


def _along_random(tree: ArrayTree, seed: int, number: Any) -> jax.Array:
    """Return the part of a tree along a vector of equal coordinates, random signs."""
    leaves = [_wide(jnp.asarray(leaf)) for leaf in jax.tree.leaves(tree)]
    flat = jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
    key = jax.random.fold_in(jax.random.key(seed), number)
    bits = jax.random.bits(key, flat.shape, jnp.uint8) & 1
    return jnp.sum(jnp.where(bits == 1, flat, -flat)) / np.sqrt(flat.size)
