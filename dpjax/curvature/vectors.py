"""Vectors shaped like a pytree: the little linear algebra that the algorithms need.

Sums and products of vectors are worked in float32 at least and, on accelerators, never
in fewer bits than that.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check, _meshes
from dpjax.noise import keys, threefry
from dpjax.types import ArrayTree, KeyLike

DOMAIN = "dpjax.curvature"
"""Names the stream of the probes; noise and sampling have others."""

_EXACT = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class Space:
    """The vectors of one shape. Hashable: a program is compiled once a space.

    Attributes:
      structure: the pytree's structure.
      leaves: shape and dtype of each leaf, float32 or float64; its sharding where a
        mesh with explicit axes makes that a part of the type.
    """

    structure: Any
    leaves: tuple[jax.ShapeDtypeStruct, ...]

    @property
    def size(self) -> int:
        """Return the dimension: the number of values in a vector."""
        return sum(math.prod(leaf.shape) for leaf in self.leaves)

    @property
    def dtype(self) -> jnp.dtype:
        """Return the dtype of a product of two vectors."""
        return jnp.result_type(*(leaf.dtype for leaf in self.leaves))

    @property
    def like(self) -> ArrayTree:
        """Return the shapes and dtypes as a pytree."""
        return jax.tree.unflatten(self.structure, self.leaves)


def space_of(like: ArrayTree) -> Space:
    """Return the space of vectors shaped like a pytree, in float32 at least.

    Args:
      like: pytree of real floating-point arrays or `jax.ShapeDtypeStruct`s.

    Raises:
      TypeError: a leaf that is not a real floating-point array.
      ValueError: no leaf, or leaves without values.
    """
    _check.real_leaves("like", like)
    leaves, structure = jax.tree.flatten(like)
    specs = [
        jax.ShapeDtypeStruct(
            np.shape(leaf),
            jnp.promote_types(jnp.result_type(leaf), jnp.float32),
            sharding=_meshes.sharding_of(leaf),
        )
        for leaf in leaves
    ]
    space = Space(structure, tuple(specs))
    if not space.size:
        _check.fail("at least one value", "like", like)
    return space


def probe_key(key: KeyLike, like: ArrayTree) -> jax.Array:
    """Return the typed key of everything that one algorithm draws for `like`."""
    return _meshes.beside(keys.domain_key(keys.key_data(key), DOMAIN), like)


def cast(space: Space, name: str, tree: ArrayTree) -> ArrayTree:
    """Return `tree` as a vector of the space.

    Raises:
      ValueError: its structure or shapes are not those of the space.
      TypeError: a complex leaf.
    """
    _check.same_shapes(name, tree, space.like)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        _refuse_complex(f"{name}{_check.path_name(path)}", jnp.result_type(leaf))
    return jax.tree.map(lambda x, leaf: jnp.asarray(x, leaf.dtype), tree, space.like)


def zero(space: Space) -> ArrayTree:
    """Return the vector of zeros, inside `jax.jit`."""
    return placed(
        space, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), space.like)
    )


def placed(space: Space, tree: ArrayTree) -> ArrayTree:
    """Return a vector of the space with the shardings of the space, in `jax.jit`."""
    return jax.tree.map(
        lambda x, leaf: _meshes.placed(x, leaf.sharding), tree, space.like
    )


def generic(space: Space, key: jax.Array) -> ArrayTree:
    """Draw a vector of independent values, uniform in (-1, 1)."""
    # 24 bits, the least one set: no value is zero, and both signs are alike.
    odd = (_words(key, space.size) >> 8) | 1
    return shaped(space, odd.astype(jnp.float32) / 2**23 - 1)


def signs(space: Space, key: jax.Array) -> ArrayTree:
    """Draw a vector of independent fair signs, -1 or 1 (Rademacher)."""
    # One random bit a value: drawing a word for each would cost as much as a gradient.
    # JAX's own cipher is not fused, so that it is not worked anew for each bit; with a
    # minor axis of a fixed length it takes a CPU a sixth, and draws the same.
    words = jax.random.bits(key, (-(-space.size // 4096), 128), jnp.uint32)
    bits = (words.reshape(-1, 1) >> jnp.arange(32, dtype=jnp.uint32)[None]) & 1
    return shaped(space, (1 - 2 * bits.astype(jnp.int8)).reshape(-1))


def shaped(space: Space, flat: jax.Array) -> ArrayTree:
    """Return a flat vector cut into leaves, what is left over dropped; in `jax.jit`."""
    # One draw cut into leaves: one for each leaf would take long to compile.
    parts, begin = [], 0
    for leaf in space.leaves:
        end = begin + math.prod(leaf.shape)
        parts.append(flat[begin:end].reshape(leaf.shape).astype(leaf.dtype))
        begin = end
    return placed(space, jax.tree.unflatten(space.structure, parts))


def dot(x: ArrayTree, y: ArrayTree) -> jax.Array:
    """Return the inner product of two vectors."""
    products = [
        _contracted(a, b)
        for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    ]
    return sum(products[1:], start=products[0])


def length(x: ArrayTree) -> jax.Array:
    """Return the Euclidean length of a vector whose squares do not underflow."""
    return jnp.sqrt(dot(x, x))


def scaled(x: ArrayTree, factor: jax.Array) -> ArrayTree:
    """Return `factor * x`, in the dtypes of `x`."""
    return jax.tree.map(lambda leaf: (factor * leaf).astype(leaf.dtype), x)


def split(x: ArrayTree) -> tuple[ArrayTree, jax.Array]:
    """Return `x / unit` and `unit`, the largest of its absolute values (1 for zero).

    Squares of the first neither overflow nor underflow, whatever the scale of `x`. What
    is not finite makes NaNs.
    """
    largest = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(x)]
    peak = jnp.max(jnp.stack(largest))
    unit = jnp.where(peak == 0, jnp.ones_like(peak), peak)
    return jax.tree.map(lambda leaf: (leaf / unit).astype(leaf.dtype), x), unit


def normalised(x: ArrayTree) -> ArrayTree:
    """Return `x` over its length, and zero for zero."""
    x, _ = split(x)
    size = length(x)
    return scaled(x, 1 / jnp.where(size == 0, jnp.ones_like(size), size))


def coefficients(basis: ArrayTree, x: ArrayTree) -> jax.Array:
    """Return the inner products of `x` with each row of a basis, shape `(rows,)`."""
    products = [
        _contracted(rows, leaf)
        for rows, leaf in zip(jax.tree.leaves(basis), jax.tree.leaves(x), strict=True)
    ]
    return sum(products[1:], start=products[0])


def combination(basis: ArrayTree, weights: jax.Array) -> ArrayTree:
    """Return sums of the rows of a basis: `weights` of shape `(..., rows)`."""
    return jax.tree.map(
        lambda rows: jnp.tensordot(
            weights.astype(rows.dtype), rows, axes=1, precision=_EXACT
        ),
        basis,
    )


def _words(key: jax.Array, count: int) -> jax.Array:
    """Return at least `count` random words: those of `jax.random.bits`, sooner."""
    # A minor axis of one fixed length is what a CPU's vector units take.
    shape = (-(-count // 128), 128)
    row, column = (jax.lax.broadcasted_iota(jnp.uint32, shape, axis) for axis in (0, 1))
    counter = (row >> 25, (row << 7) | column)
    first, second = jax.random.key_data(key)
    left, right = threefry.threefry2x32((first, second), counter)
    return (left ^ right).reshape(-1)


def _contracted(x: jax.Array, leaf: jax.Array) -> jax.Array:
    """Sum a product over all axes of `leaf`, which are the last ones of `x`."""
    return jnp.tensordot(
        x,
        leaf,
        axes=leaf.ndim,
        precision=_EXACT,
        out_sharding=_meshes.on_every_device(leaf),
    )


def _refuse_complex(name: str, dtype: jnp.dtype) -> None:
    if jnp.issubdtype(dtype, jnp.complexfloating):
        _check.fail("real leaves", f"{name}.dtype", str(dtype), TypeError)
