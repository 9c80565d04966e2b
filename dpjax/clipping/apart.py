"""One function of each example of a batch, whatever the others hold."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from dpjax import _equations, _manual


def mapped(function: Callable[..., Any], *batch: Any) -> Any:
    """Return `jax.vmap(function)(*batch)`, where NaN stays with its example.

    Examples of a batch are groups of one convolution to XLA. Where the function's own
    has groups, too, it mixes them on CPUs: in the gradient of such a kernel, NaN in one
    example makes all NaN. Where a convolution with groups is and something is not
    finite, examples are therefore taken one after the other.

    Args:
      function: of one example.
      batch: its arguments, leaves with a leading axis `(batch,)`.
    """
    one = jax.tree.map(lambda leaf: _manual.shaped(jax.typeof(leaf), lead=1), batch)
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*one)

    def alone(example: tuple[Any, ...]) -> Any:
        found = core.jaxpr_as_fun(closed)(*jax.tree.leaves(example))
        return jax.tree.unflatten(jax.tree.structure(shapes), found)

    found = jax.vmap(alone)(batch)
    if not _equations.contains(closed.jaxpr, _has_groups):
        return found
    floats = [x for x in jax.tree.leaves(found) if jnp.issubdtype(x.dtype, jnp.inexact)]
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in floats]
    return jax.lax.cond(
        jnp.all(jnp.asarray(finite)), lambda: found, lambda: jax.lax.map(alone, batch)
    )


def _has_groups(eqn: _equations.Equation) -> bool:
    names = ("feature_group_count", "batch_group_count")
    return any(eqn.params.get(name, 1) > 1 for name in names)
