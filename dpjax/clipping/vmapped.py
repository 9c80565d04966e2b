"""The reference engine: per-example gradients by `vmap(grad)`, then clip and sum.

Forms every example's gradient, so that memory grows with batch x parameters. It works
for any loss that JAX can differentiate and is the oracle for faster engines. Where one
example that is not finite could make others so, all are taken one after the other
(see `apart`).
"""

import functools
from typing import Any

import jax

from dpjax import _apart
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

    (loss, aux), grads = _apart.mapped(functools.partial(gradient, params), *batch)
    total, grad_norm, bound = aggregate.clip_and_sum(grads, rule, mask)
    return total, PerExample(loss, grad_norm, aux, bound)
