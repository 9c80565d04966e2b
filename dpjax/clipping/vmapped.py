"""The reference engine: per-example gradients by `vmap(grad)`, then clip and sum.

Forms every example's gradient, so that memory grows with batch x parameters. It works
for any loss that JAX can differentiate and is the oracle for faster engines. Where one
example that is not finite could make others so, all are taken one after the other.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from dpjax import _equations, _manual
from dpjax.clipping import aggregate, rules
from dpjax.clipping.result import PerExample
from dpjax.types import ArrayTree, Params


def clipped_sum(
    example_loss: Any,
    params: Params,
    batch: tuple[ArrayTree, Any],
    mask: jax.Array | None,
    rule: rules.ClippingRule,
) -> tuple[ArrayTree, PerExample]:
    """Return the clipped gradient sum of a batch, and the raw per-example quantities.

    Args:
      example_loss: `(params, example, key) -> (loss, aux)` of one example.
      params: parameters, shared by all examples.
      batch: `(examples, keys)` with a leading axis `(batch,)`; keys may be `None`.
      mask: booleans `(batch,)` or `None`.
      rule: the clipping rule.
    """

    def gradient(params: Params, example: ArrayTree, key: Any) -> Any:
        return jax.value_and_grad(example_loss, has_aux=True)(params, example, key)

    like = jax.tree.map(lambda leaf: _manual.shaped(jax.typeof(leaf)), params)
    one = jax.tree.map(lambda leaf: _manual.shaped(jax.typeof(leaf), lead=1), batch)
    closed, shapes = jax.make_jaxpr(gradient, return_shape=True)(like, *one)

    def of_one(example: Any) -> Any:
        arrays = jax.tree.leaves((params, example))
        found = core.jaxpr_as_fun(closed)(*arrays)
        return jax.tree.unflatten(jax.tree.structure(shapes), found)

    found = jax.vmap(of_one)(batch)
    if _equations.contains(closed.jaxpr, _mixes_examples):
        finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(found[1])]
        found = jax.lax.cond(
            jnp.all(jnp.stack(finite)),
            lambda: found,
            lambda: jax.lax.map(of_one, batch),
        )
    (loss, aux), grads = found
    total, grad_norm, bound = aggregate.clip_and_sum(grads, rule, mask)
    return total, PerExample(loss, grad_norm, aux, bound)


def _mixes_examples(eqn: _equations.Equation) -> bool:
    """Whether NaN in one example can reach others of its batch.

    XLA computes a convolution with groups as one without, whose kernel is 0 between
    groups. Mapped over examples these are groups, too, and 0 times NaN is NaN.
    """
    groups = ("feature_group_count", "batch_group_count")
    return any(eqn.params.get(name, 1) > 1 for name in groups)
