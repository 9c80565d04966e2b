"""The curvature of each example along one direction."""

import functools
from typing import Any

import jax

from dpjax import _check
from dpjax.curvature import along_lines, means
from dpjax.curvature.readings import Reading
from dpjax.curvature.sources import Source, arguments, raw_event
from dpjax.types import ArrayTree, LossFn, Params


def per_example_curvature(
    loss_fn: LossFn, params: Params, batch: Source, vector: ArrayTree
) -> Reading:
    """Return v^T H_i v for each example i, H_i the Hessian of its own loss.

    The second derivative of every loss along v, forward over forward: no gradient is
    formed, and memory grows with the batch, not with batch x parameters; but for a loss
    with a `jax.custom_vjp`, which has no forward mode.

    Args:
      loss_fn: `loss_fn(params, *example) -> scalar`, the loss of ONE example.
      params: pytree of floating-point arrays.
      batch: `Public((x, y))` or `Private((x, y))`, leading axis the examples.
      vector: the direction v, shaped like `params`; it is not normalised.

    Returns:
      `.value`, `(batch,)`, float32 at least; and the batch's `.event`. Its mean is what
      `hessian_operator` gives for v^T H v.

    Raises:
      TypeError, ValueError: as for `hessian_operator`.

    >>> import jax.numpy as jnp
    >>> from dpjax.curvature import Public
    >>> batch = Public(jnp.array([[1., 0.], [0., 2.]]))
    >>> print(per_example_curvature(
    ...     lambda w, x: jnp.vdot(w, x) ** 2 / 2, jnp.ones(2), batch, jnp.ones(2)
    ... ).value)
    [1. 4.]
    """
    _check.real_leaves("params", params)
    value = _second_derivatives(
        means.as_operand(loss_fn), params, arguments(batch), vector
    )
    return Reading(value, raw_event(batch))


@means.exact_jit
def _second_derivatives(
    loss_fn: LossFn, params: Params, batch: tuple[Any, ...], vector: ArrayTree
) -> jax.Array:
    point, direction = means.in_one_precision(params, vector)

    def of_example(*example: Any) -> jax.Array:
        def loss(params: Params) -> jax.Array:
            return means.wide_loss(functools.partial(loss_fn, params), *example)

        return along_lines.second_derivative(loss, point, direction)

    return jax.vmap(of_example)(*batch)
