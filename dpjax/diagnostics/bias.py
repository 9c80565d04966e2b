"""How far the clipped gradient is from the gradient."""

import dataclasses
import functools

import dp_accounting
import jax
import jax.numpy as jnp

from dpjax import _check
from dpjax.clipping import ClippedGrads
from dpjax.curvature import means, vectors
from dpjax.curvature.sources import Source, raw_event
from dpjax.diagnostics import exact, step
from dpjax.types import LossFn, Params


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["cosine", "norm_ratio"],
    meta_fields=["event"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class ClippingBias:
    """What clipping does to the mean gradient.

    Attributes:
      cosine: scalar, of the angle between clipped and raw mean gradient: 1 where
        clipping only shortens. NaN where one of them is zero.
      norm_ratio: scalar, length of the clipped over that of the raw mean gradient.
      event: what this look at the batch costs.
    """

    cosine: jax.Array
    norm_ratio: jax.Array
    event: dp_accounting.DpEvent


def clipping_bias(
    loss_fn: LossFn,
    params: Params,
    batch: Source,
    grads: ClippedGrads,
    *,
    mask: jax.Array | None = None,
) -> ClippingBias:
    """Compare the clipped mean gradient of a step with the raw one.

    Costs one ordinary gradient of the batch. A norm ratio below 1 asks for a larger
    learning rate; a cosine below 1 is a bias that no learning rate takes away.

    Args:
      loss_fn: `loss_fn(params, *example) -> scalar`, the loss of ONE example.
      params: where the gradients were taken.
      batch: `Public((x, y))` or `Private((x, y))`.
      grads: what `clipped_grad(loss_fn, l2_norm_clip)(params, x, y)` returned.
      mask: booleans `(batch,)`, `False` for padding, as given to `clipped_grad`.

    Returns:
      A `ClippingBias`. Examples with a gradient that is not finite are left out.

    Raises:
      TypeError: a batch that does not say whether it is private, no `ClippedGrads`,
        parameters that are not real floating-point numbers.
      ValueError: a batch, a mask or gradients of other shapes.

    References:
      Chen, Wu and Hong 2020, Understanding gradient clipping in private SGD: a
      geometric perspective, arXiv 2006.15429.

    >>> from dpjax import clipped_grad
    >>> from dpjax.curvature import Public
    >>> x = jnp.array([[3.0, 0.0], [0.0, 1.0]])
    >>> grads = clipped_grad(jnp.vdot, 1.0)(jnp.zeros(2), x)
    >>> bias = clipping_bias(jnp.vdot, jnp.zeros(2), Public(x), grads)
    >>> print(round(float(bias.cosine), 4), round(float(bias.norm_ratio), 4))
    0.8944 0.4472
    """
    _check.real_leaves("params", params)
    shown = exact.examples(batch, grads, mask)
    loss = means.as_operand(loss_fn)
    raw = exact.mean_gradient(loss, params, shown.args, shown.kept)
    clipped = jax.tree.map(lambda total: total / shown.number, grads.sum)
    cosine = vectors.dot(vectors.normalised(raw), vectors.normalised(clipped))
    raw_length, clipped_length = step.length(raw), step.length(clipped)
    directed = (raw_length > 0) & (clipped_length > 0)
    return ClippingBias(
        jnp.where(directed, cosine, jnp.nan),
        clipped_length / raw_length,
        raw_event(batch),
    )
