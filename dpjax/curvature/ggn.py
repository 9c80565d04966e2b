"""The generalised Gauss-Newton matrix as an operator."""

from typing import Any

import jax
import jax.numpy as jnp

from dpjax import _check, autodiff
from dpjax.curvature import means
from dpjax.curvature.matvec import MatVec
from dpjax.curvature.outputs import (
    ModelFn,
    OutputLossFn,
    Product,
    mean_through_outputs,
)
from dpjax.curvature.sources import Source, arguments
from dpjax.types import ArrayTree, Params


def ggn_operator(
    model_fn: ModelFn,
    output_loss_fn: OutputLossFn,
    params: Params,
    batch: Source,
    *,
    microbatch_size: int | None = None,
) -> MatVec:
    """Return the Gauss-Newton matrix of the mean loss of a batch as an operator.

    G v = mean over examples of J^T H J v, where J is the Jacobian of the model's output
    in the parameters and H the Hessian of the loss in the output. Neither is formed. It
    is positive semi-definite where the loss is convex in the output, equals the Hessian
    for a model that is linear in its parameters, and equals the true Fisher
    information for softmax cross-entropy and for half the squared error.

    Precision and compilation are those of `hessian_operator`.

    Args:
      model_fn: `model_fn(params, *inputs) -> output` of ONE example; the output is a
        pytree of floating-point arrays, float32 at least from here on.
      output_loss_fn: `output_loss_fn(output, target) -> scalar` of ONE example.
      params: pytree of floating-point arrays.
      batch: `Public` or `Private` of a tuple `(*inputs, target)`, leading axis the
        examples.
      microbatch_size: examples that are differentiated at a time, to save memory.

    Returns:
      A symmetric `MatVec`; its `event` says what looking at the batch costs.

    Raises:
      TypeError: parameters or outputs that are not real floating-point numbers, or a
        batch that does not say whether it is private.
      ValueError: a batch without targets, an empty one, or leading axes that differ; at
        the call, a vector of another shape, or a loss that is not a scalar.

    References:
      Schraudolph 2002, Fast curvature matrix-vector products, section 3.

    >>> import jax.numpy as jnp
    >>> from dpjax.curvature import Public
    >>> batch = Public((jnp.array([[1., 0.], [0., 2.]]), jnp.zeros(2)))
    >>> matvec = ggn_operator(
    ...     jnp.vdot, lambda output, y: (output - y) ** 2, jnp.ones(2), batch
    ... )
    >>> print(matvec(jnp.array([1., 1.])))
    [1. 4.]
    """
    num_arguments = len(arguments(batch))
    if num_arguments < 2:
        _check.fail("a batch (*inputs, target)", "the length of batch", num_arguments)
    return mean_through_outputs(
        _product, model_fn, output_loss_fn, params, batch, microbatch_size
    )


def _product(
    weight: float, batch: tuple[Any, ...], output_loss_fn: OutputLossFn
) -> tuple[tuple[Any, ...], Product]:
    *inputs, targets = batch

    def loss(outputs: ArrayTree) -> jax.Array:
        return weight * jnp.sum(means.losses(output_loss_fn, outputs, targets))

    def product(outputs: ArrayTree, tangents: ArrayTree) -> ArrayTree:
        return autodiff.hvp(loss, outputs, tangents)

    return tuple(inputs), product
