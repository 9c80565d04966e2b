"""Standard normal values for many leaves at once, laid out so that it is fast.

The value at flat index i of a leaf is made of the block that the leaf's key gives for
counter i, and of nothing else: which loop computes it is a matter of speed alone.

Leaves of up to 2**20 values are cut into rows of 128, and the rows of all of them
are computed in one loop: compiling a loop for each takes 0.1 s, a lot for a model of
many layers. Over a mesh, every device computes all of these rows. A larger leaf has a
loop of its own in its own shape, which XLA splits over a mesh as the leaf is split. In
the context of a mesh (`jax.set_mesh`, `jax.sharding.use_abstract_mesh`), leaves may be
split, and those of more than 2**12 values have loops of their own.
"""

import collections
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dpjax.noise import normal, threefry

Spec = tuple[tuple[int, ...], np.dtype]
Draw = Callable[[jax.Array], list[jax.Array]]

SMALL = 2**20
"""The most values of a leaf that shares its loop with others."""

SMALL_ON_MESH = 2**12
"""The same in the context of a mesh."""

_ROW = 128
_MOST_ROWS = 2**23
_LONG_ROW = 1024
_SHORTEST_ROW = 32


@functools.partial(jax.jit, static_argnames="specs")
def standard_normals(words: jax.Array, specs: tuple[Spec, ...]) -> list[jax.Array]:
    """Draw independent standard normal values for each leaf.

    Args:
      words: Keys of the leaves, all different: uint32 array of shape (leaves, 2).
      specs: Shape and dtype of each leaf, float32 or float64.

    Returns:
      For each leaf an array of its shape and dtype: a function of its key alone, the
      same on every mesh, whatever becomes of it in the program around.

    Raises:
      ValueError: A leaf of more than 2**42 values.
    """
    leaves: dict[int, jax.Array] = {}
    on_mesh = not jax.sharding.get_abstract_mesh().empty
    for group in groups_of_small(specs, SMALL_ON_MESH if on_mesh else SMALL):
        values = _small_leaves(words[np.array(group)], [specs[i][0] for i in group])
        leaves |= dict(zip(group, values, strict=True))
    rest = [i for i in range(len(specs)) if i not in leaves]
    if rest:
        values = _large_leaves(words[np.array(rest)], [specs[i] for i in rest])
        leaves |= dict(zip(rest, values, strict=True))
    return [leaves[i] for i in range(len(specs))]


def view_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in which a large leaf is computed: its inner loop is long.

    Short trailing axes are joined. What is one axis then, or is too large to count,
    becomes rows, the last of which may exceed the leaf.

    >>> view_shape((512, 512, 3, 3)), view_shape((3_000_001,))
    ((512, 4608), (2930, 1024))
    """
    axes = shape
    while len(axes) > 1 and axes[-1] < _SHORTEST_ROW:
        axes = (*axes[:-2], axes[-2] * axes[-1])
    if len(axes) > 1 and threefry.countable(axes):
        return axes
    return -(-math.prod(shape) // _LONG_ROW), _LONG_ROW


def groups_of_small(specs: tuple[Spec, ...], most: int = SMALL) -> list[list[int]]:
    """Return the indices of the float32 leaves that share a loop, in groups of loops.

    A group has about 2**30 values: the offset of a leaf, an int32, tells no more apart.

    Args:
      specs: Shape and dtype of each leaf.
      most: The most values of a leaf that shares its loop.
    """
    groups: dict[int, list[int]] = collections.defaultdict(list)
    rows = 0
    for i, (shape, dtype) in enumerate(specs):
        if math.prod(shape) <= most and dtype == np.float32:
            groups[rows // _MOST_ROWS].append(i)
            rows += _num_rows(shape)
    return list(groups.values())


def _num_rows(shape: tuple[int, ...]) -> int:
    """Return how many rows a small leaf takes: at least one."""
    return max(1, -(-math.prod(shape) // _ROW))


def _small_leaves(words: jax.Array, shapes: list[tuple[int, ...]]) -> list[jax.Array]:
    """Return the values of several float32 leaves, computed in one loop.

    Leaves are cut out at offsets that XLA does not know to be constant: otherwise it
    would split the rows over a mesh as one of the leaves is split, and then exchange
    them between devices to make the others.
    """
    counts = [_num_rows(shape) for shape in shapes]
    starts = np.concatenate([np.arange(count) * _ROW for count in counts])
    leaf_of_row = np.repeat(np.arange(len(shapes)), counts)
    draw = functools.partial(_rows, starts=starts.astype(np.uint32))
    zero = _unknown_zero(words)
    (rows,) = _sealed(draw, words[leaf_of_row], zero)
    values = rows.ravel()
    firsts = np.cumsum([0, *counts[:-1]]) * _ROW
    leaves = []
    for first, shape in zip(firsts, shapes, strict=True):
        offset = zero + np.int32(first)
        leaf = lax.dynamic_slice(values, (offset,), (math.prod(shape),))
        leaves.append(leaf.reshape(shape))
    return leaves


def _rows(words: jax.Array, starts: np.ndarray) -> list[jax.Array]:
    """Return rows of values: each with a key and a first counter of its own."""
    column = lax.broadcasted_iota(jnp.uint32, (len(starts), _ROW), 1)
    low = jnp.asarray(starts)[:, None] + column
    key = words[:, :1], words[:, 1:]
    return [normal.box_muller(*threefry.threefry2x32(key, (jnp.zeros_like(low), low)))]


def _large_leaves(words: jax.Array, specs: list[Spec]) -> list[jax.Array]:
    """Return the values of several leaves, each computed in a loop of its own."""

    def draw(words: jax.Array) -> list[jax.Array]:
        return [
            _view(words[i], view_shape(shape), dtype)
            for i, (shape, dtype) in enumerate(specs)
        ]

    views = _sealed(draw, words, _unknown_zero(words))
    return [_cut(view, shape) for view, (shape, _) in zip(views, specs, strict=True)]


def _view(words: jax.Array, shape: tuple[int, ...], dtype: np.dtype) -> jax.Array:
    """Return normal values of one key, in a shape whose axes 32 bits can index."""
    axes = [lax.broadcasted_iota(jnp.uint32, shape, axis) for axis in range(len(shape))]
    block = threefry.threefry2x32((words[0], words[1]), threefry.counters(axes, shape))
    transform = normal.box_muller if dtype == np.float32 else normal.inverse_cdf
    return transform(*block)


def _cut(view: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return a leaf, given what was computed for it."""
    size = math.prod(shape)
    return (view if view.size == size else view.ravel()[:size]).reshape(shape)


def _sealed(draw: Draw, words: jax.Array, zero: jax.Array) -> list[jax.Array]:
    """Return `draw(words)`, out of reach of what XLA does to the program around.

    Otherwise a last bit might depend on what the caller does with the noise. Besides,
    on a CPU, XLA would compute the noise in the loop of the caller's sum, and would not
    vectorise that where the sum has one axis of odd length (15 times the time); or
    would compute the cipher again for each leaf that is cut out of the rows.

    A barrier does not hold on a CPU: it is gone before loops are fused. A branch does,
    as long as XLA does not know that `zero` is 0.
    """

    def branch(words: jax.Array, zero: jax.Array) -> list[jax.Array]:
        unused = [
            jnp.zeros(out.shape, out.dtype) for out in jax.eval_shape(draw, words)
        ]
        return lax.cond(zero == 0, draw, lambda _: unused, words)

    def barrier(words: jax.Array, _: jax.Array) -> list[jax.Array]:
        return lax.optimization_barrier(draw(words))

    return lax.platform_dependent(words, zero, cpu=branch, default=barrier)


def _unknown_zero(words: jax.Array) -> jax.Array:
    """Return the int32 number 0, as a value that XLA does not know when it compiles.

    It is 1/64, rounded down, of the number of ones in a word of 32 bits.
    """
    return (lax.population_count(words[0, 0]) >> np.uint32(6)).astype(jnp.int32)
