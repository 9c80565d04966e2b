"""Arrays on their way to the devices of a layout, between them, and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.training.placement import Layout
from dpjax.types import ArrayTree


def keep_split(layout: Layout, tree: ArrayTree) -> ArrayTree:
    """Return a tree, under jit, that stays split as the parameters are."""
    if layout.mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, layout.split(tree))


def keep_whole(layout: Layout, tree: ArrayTree) -> ArrayTree:
    """Return a tree, under jit, that is whole on every device."""
    if layout.mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, layout.whole)


def keep_state(layout: Layout, state: Any) -> Any:
    """Return a `TrainState`, under jit, that stays where it is."""
    if layout.mesh is None:
        return state
    return jax.lax.with_sharding_constraint(state, layout.state(state))


def spread(layout: Layout, state: Any) -> Any:
    """Return a `TrainState` on the devices of a layout.

    Args:
      layout: where to.
      state: the same in every process; each hands on what its own devices hold.
    """
    if layout.mesh is None:
        return state
    return jax.tree.map(_placed, state, layout.state(state))


def _placed(leaf: Any, sharding: Any) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        words = _placed(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)


def gathered(layout: Layout, tree: ArrayTree) -> ArrayTree:
    """Return a tree that is whole on the first device of this process.

    Every process has to call it.
    """
    if layout.mesh is None:
        return tree

    def gather(leaf: jax.Array) -> jax.Array:
        if not leaf.is_fully_replicated:
            leaf = jax.jit(_same, out_shardings=layout.whole)(leaf)
        return leaf.addressable_data(0)

    return jax.tree.map(gather, tree)


def on_host(layout: Layout, tree: ArrayTree) -> ArrayTree:
    """Return a tree whose leaves are whole and in the host's memory.

    Every process has to call it. Leaves are gathered one after the other.
    """
    if layout.mesh is None:
        return tree
    return jax.tree.map(lambda leaf: _host(gathered(layout, leaf)), tree)


def _host(leaf: jax.Array) -> Any:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return leaf if is_key else np.asarray(leaf)


def _same(leaf: jax.Array) -> jax.Array:
    return leaf
