"""One function of each example of a batch, whatever the others hold."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from dpjax import _convolutions, _equations, _manual


def mapped(function: Callable[..., Any], *batch: Any, to_the_bit: bool = False) -> Any:
    """Return `jax.vmap(function)(*batch)`, where NaN stays with its example.

    Nor is an example lost where devices share the batch (see `_convolutions`).

    Where each example has a kernel, or a kernel's gradient, of its own, examples are
    groups of one convolution to XLA. On CPUs it mixes them where the function's has
    groups, too, or numbers of 64 bits: NaN in one example makes all NaN. Where such a
    convolution is and something is not finite, examples are therefore taken one after
    the other. The largest number of a dtype, a mark (see `tape.guard`), counts as not
    finite. What comes out for the others may then be an ulp off.

    Args:
      function: of one example.
      batch: its arguments, leaves with a leading axis `(batch,)`.
      to_the_bit: whether an ulp is too much: examples are always taken one after the
        other where such a convolution is.
    """
    one = jax.tree.map(lambda leaf: _manual.shaped(jax.typeof(leaf), lead=1), batch)
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*one)
    run = core.jaxpr_as_fun(closed.replace(jaxpr=_convolutions.in_order(closed.jaxpr)))

    def alone(example: tuple[Any, ...]) -> Any:
        found = run(*jax.tree.leaves(example))
        return jax.tree.unflatten(jax.tree.structure(shapes), found)

    mixes = _equations.contains(closed.jaxpr, _is_mixed)
    if mixes and to_the_bit:
        return jax.lax.map(alone, batch)
    found = jax.vmap(alone)(batch)
    if not mixes:
        return found
    floats = [x for x in jax.tree.leaves(found) if jnp.issubdtype(x.dtype, jnp.inexact)]
    finite = [jnp.all(jnp.abs(x) < jnp.finfo(x.dtype).max) for x in floats]
    return jax.lax.cond(
        jnp.all(jnp.asarray(finite)), lambda: found, lambda: jax.lax.map(alone, batch)
    )


def _is_mixed(eqn: _equations.Equation) -> bool:
    """Tell whether XLA may mix examples where this equation is mapped over them."""
    if not _equations.is_convolution(eqn):
        return False
    result: Any = eqn.outvars[0].aval
    dtype = result.dtype
    is_wide = jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits == 64
    names = ("feature_group_count", "batch_group_count")
    return is_wide or any(eqn.params[name] > 1 for name in names)
