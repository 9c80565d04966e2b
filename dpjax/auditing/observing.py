"""See what a private optimizer releases: the sum of its privatised gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dpjax.types import ArrayTree


class Observed(NamedTuple):
    """The state of the observer: `total`, float32 at least, shaped like parameters."""

    total: ArrayTree


def observed(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return an optimizer that is the same, and adds up the gradients that it is given.

    Behind the noise these are what is released, so that it costs no privacy.

    Example:
      >>> chained = observed(optax.sgd(0.1))
      >>> state = chained.init(jnp.zeros(2))
      >>> for _ in range(3):
      ...     _, state = chained.update(jnp.array([1.0, 2.0]), state)
      >>> released_total(state)
      Array([3., 6.], dtype=float32)
    """
    return optax.chain(optax.GradientTransformation(_start, _add), optimizer)


def released_total(state: ArrayTree) -> ArrayTree:
    """Return the sum that `observed` kept, wherever in an optimizer's state it is."""
    (found,) = [
        node
        for node in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Observed))
        if isinstance(node, Observed)
    ]
    return found.total


def _start(params: ArrayTree) -> Observed:
    def zeros(leaf: Any) -> jax.Array:
        dtype = jnp.promote_types(jnp.result_type(leaf), jnp.float32)
        return jnp.zeros(jnp.shape(leaf), dtype)

    return Observed(jax.tree.map(zeros, params))


def _add(
    updates: ArrayTree, state: Observed, params: ArrayTree = None
) -> tuple[ArrayTree, Observed]:
    del params
    return updates, Observed(
        jax.tree.map(lambda a, u: a + u.astype(a.dtype), state.total, updates)
    )
