"""Meshes with explicit axes, where an array's sharding is part of its type.

There JAX guesses no sharding: what is made anew must be put where it belongs, and sums
over split axes must say where their result lives. Axes that the compiler looks after
(`AxisType.Auto`) are not in the type, and nothing here touches them.
"""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any

import jax

from dpjax.types import ArrayTree

Sharding = jax.sharding.NamedSharding


def sharding_of(leaf: Any) -> Sharding | None:
    """Return the sharding in the type of an array or of its shape, or None."""
    sharding = jax.typeof(leaf).sharding
    explicit = jax.sharding.AxisType.Explicit in sharding.mesh.axis_types
    return sharding if explicit else None


def on_every_device(leaf: Any) -> Sharding | None:
    """Return the sharding of a sum over all axes of a leaf, None where JAX knows it."""
    sharding = sharding_of(leaf)
    return sharding and Sharding(sharding.mesh, jax.P())


def is_split(tree: ArrayTree) -> bool:
    """Tell whether explicit axes split any of the arrays."""
    shardings = filter(None, map(sharding_of, jax.tree.leaves(tree)))
    return any(any(sharding.spec) for sharding in shardings)


def placed(leaf: jax.Array, sharding: Sharding | None) -> jax.Array:
    """Return an array with a sharding, where one is given; inside `jax.jit`."""
    return leaf if sharding is None else jax.sharding.reshard(leaf, sharding)


def gathered(leaf: jax.Array) -> jax.Array:
    """Return an array whole on every device, if its type says that it is split."""
    return placed(leaf, on_every_device(leaf))


def along(leaf: jax.Array, example: jax.Array) -> jax.Array:
    """Return an array with its axis 0 split as axis 0 of another; inside `jax.jit`."""
    sharding = sharding_of(example)
    if sharding is None:
        return leaf
    return placed(leaf, Sharding(sharding.mesh, jax.P(sharding.spec[0])))


def context(tree: ArrayTree) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which new arrays have the mesh of a pytree in their type.

    Args:
      tree: arrays or `jax.ShapeDtypeStruct`s.
    """
    if (sharding := _first_of(tree)) is None:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(_abstract(sharding.mesh))


def beside(array: jax.Array, tree: ArrayTree) -> jax.Array:
    """Return an array on the devices of a pytree, so that `jax.jit` finds its mesh.

    A traced one is where the caller's program runs, and comes back as it is.
    """
    if isinstance(array, jax.core.Tracer):
        return array
    for leaf in jax.tree.leaves(tree):
        mesh = getattr(getattr(leaf, "sharding", None), "mesh", None)
        if isinstance(mesh, jax.sharding.Mesh) and sharding_of(leaf):
            return jax.device_put(array, Sharding(mesh, jax.P()))
    return array


def automatic(
    solver: Callable[[Callable[[ArrayTree], ArrayTree], ArrayTree], ArrayTree],
    matvec: Callable[[ArrayTree], ArrayTree],
    vector: ArrayTree,
) -> ArrayTree:
    """Return `solver(matvec, vector)`, the solver's own sums left to the compiler.

    For solvers that know nothing of explicit axes: those of JAX's libraries.

    Args:
      solver: its result is shaped and sharded like the vector.
      matvec: called with the axes as they are.
      vector: on a mesh that the context has, see `context`.
    """
    shardings = [sharding_of(leaf) for leaf in jax.tree.leaves(vector)]
    if not any(shardings):
        return solver(matvec, vector)
    specs = jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec, vector)
    axes = next(filter(None, shardings)).mesh.explicit_axes
    inside = jax.sharding.explicit_axes(matvec, axes=axes, in_sharding=(specs,))
    outside = functools.partial(solver, inside)
    return jax.sharding.auto_axes(outside, axes=axes, out_sharding=specs)(vector)


def left_to_compiler(
    function: Callable[..., Any], out_specs: Any, *arguments: ArrayTree
) -> Any:
    """Return `function(*arguments)`, explicit axes left to the compiler in it.

    Args:
      function: what has no say in where its arrays live.
      out_specs: prefix pytree of the `jax.P`s of what it returns.
      arguments: pytrees of arrays; inside of `jax.jit`.
    """
    if (sharding := _first_of(arguments)) is None:
        return function(*arguments)
    axes = sharding.mesh.explicit_axes
    with context(arguments):
        inside = jax.sharding.auto_axes(function, axes=axes, out_sharding=out_specs)
        return inside(*arguments)


def spec_of(leaf: Any) -> jax.P:
    """Return how explicit axes split an array: `jax.P()` where there are none."""
    sharding = sharding_of(leaf)
    return jax.P() if sharding is None else sharding.spec


def spec_of_examples(batch: ArrayTree) -> jax.P:
    """Return how explicit axes split axis 0 of the arrays, by the first one split."""
    specs = filter(None, map(spec_of, jax.tree.leaves(batch)))
    return next((jax.P(spec[0]) for spec in specs if spec[0] is not None), jax.P())


def pieces(batch: ArrayTree, size: int) -> tuple[ArrayTree, ArrayTree | None]:
    """Return a batch in pieces of `size`, and what remains, or None.

    Where examples are split over devices and every piece can take as many from each,
    they stay where they are: piece j has the examples j, j + pieces, ... Else
    every device gets all of them.

    Args:
      batch: leaves `(examples, ...)`.
      size: at most the number of examples.

    Returns:
      Leaves `(pieces, size, ...)`, and leaves `(rest, ...)`.
    """
    num_examples = jax.tree.leaves(batch)[0].shape[0]
    num_pieces, rest = divmod(num_examples, size)
    shards = [_num_shards(leaf) for leaf in jax.tree.leaves(batch)]
    if max(shards) > 1 and not rest and all(size % count == 0 for count in shards):
        return jax.tree.map(functools.partial(_strided, num_pieces), batch), None
    batch = jax.tree.map(gathered, batch)
    remainder = jax.tree.map(lambda leaf: leaf[num_examples - rest :], batch)
    return jax.tree.map(
        lambda leaf: leaf[: num_pieces * size].reshape(-1, size, *leaf.shape[1:]), batch
    ), (remainder if rest else None)


def _strided(num_pieces: int, leaf: jax.Array) -> jax.Array:
    return leaf.reshape(-1, num_pieces, *leaf.shape[1:]).swapaxes(0, 1)


def _num_shards(leaf: jax.Array) -> int:
    """Return over how many devices axis 0 is split by the leaf's type."""
    sharding = sharding_of(leaf)
    if sharding is None or not sharding.spec or sharding.spec[0] is None:
        return 1
    names = sharding.spec[0]
    names = names if isinstance(names, tuple) else (names,)
    return math.prod(sharding.mesh.shape[name] for name in names)


def _first_of(tree: ArrayTree) -> Sharding | None:
    """Return the sharding of the first array that has one in its type."""
    return next(filter(None, map(sharding_of, jax.tree.leaves(tree))), None)


def _abstract(
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
) -> jax.sharding.AbstractMesh:
    return mesh.abstract_mesh if isinstance(mesh, jax.sharding.Mesh) else mesh
