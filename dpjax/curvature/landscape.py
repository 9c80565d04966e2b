"""The mean loss along lines and planes through the parameters."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import dp_accounting
import jax
import jax.numpy as jnp

from dpjax import _check
from dpjax.curvature import means
from dpjax.curvature.sources import Source, arguments, raw_event
from dpjax.types import ArrayTree, LossFn, Params


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["offsets", "value"],
    meta_fields=["event"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class LossSlice:
    """The mean loss at points of a grid through the parameters.

    Attributes:
      offsets: the coordinates along each direction, `(points,)` each.
      value: the mean loss, one axis a direction, in their order.
      event: what looking at the batch costs.
    """

    offsets: tuple[jax.Array, ...]
    value: jax.Array
    event: dp_accounting.DpEvent | None


def loss_slice(
    loss_fn: LossFn,
    params: Params,
    batch: Source,
    directions: Sequence[ArrayTree],
    offsets: Sequence[jax.Array],
) -> LossSlice:
    """Return the mean loss at params + sum_j a_j d_j, for all a_j of a grid.

    One direction gives a curve, two a plane. The losses are computed one point of the
    grid at a time.

    Args:
      loss_fn: `loss_fn(params, *example) -> scalar`, the loss of ONE example.
      params: the origin, a pytree of floating-point arrays.
      batch: `Public((x, y))` or `Private((x, y))`, leading axis the examples.
      directions: pytrees shaped like `params`; they are not normalised.
      offsets: for each direction, its coordinates a_j, `(points,)`.

    Returns:
      `.value`, `(points of the first, points of the second, ...)`, float32 at least,
      and the batch's `.event`.

    Raises:
      TypeError, ValueError: as for `hessian_operator`; also no direction, or not as
        many offsets as directions.

    >>> import jax.numpy as jnp
    >>> from dpjax.curvature import Public
    >>> curve = loss_slice(
    ...     lambda w, x: (w - x) ** 2, jnp.zeros(()), Public(jnp.array([1., 1.])),
    ...     [jnp.ones(())], [jnp.array([0., 1., 2.])],
    ... )
    >>> print(curve.value)
    [1. 0. 1.]
    """
    if not directions or len(directions) != len(offsets):
        counts = (len(directions), len(offsets))
        _check.fail("as many offsets as directions, one or more", "counts", counts)
    _check.real_leaves("params", params)
    coordinates = tuple(jnp.asarray(axis) for axis in offsets)
    for axis in coordinates:
        if axis.ndim != 1:
            _check.fail("offsets of shape (points,)", "offsets.shape", axis.shape)
        if jnp.issubdtype(axis.dtype, jnp.complexfloating):
            _check.fail("real offsets", "their dtype", str(axis.dtype), TypeError)
    value = _mean_losses(
        means.as_operand(loss_fn),
        params,
        arguments(batch),
        tuple(directions),
        coordinates,
    )
    return LossSlice(coordinates, value, raw_event(batch))


@means.exact_jit
def _mean_losses(
    loss_fn: LossFn,
    params: Params,
    batch: tuple[Any, ...],
    directions: tuple[ArrayTree, ...],
    offsets: tuple[jax.Array, ...],
) -> jax.Array:
    point = means.widened(params)
    for direction in directions:
        point, _ = means.in_one_precision(point, direction)
    mesh = jnp.meshgrid(*offsets, indexing="ij")

    def mean_loss(steps: tuple[jax.Array, ...]) -> jax.Array:
        def moved(leaf: jax.Array, *along: jax.Array) -> jax.Array:
            terms = (step * d for step, d in zip(steps, along, strict=True))
            return (leaf + sum(terms)).astype(leaf.dtype)

        at = jax.tree.map(moved, point, *directions)
        return jnp.mean(means.losses(functools.partial(loss_fn, at), *batch))

    flat = jax.lax.map(mean_loss, tuple(axis.ravel() for axis in mesh))
    return flat.reshape(mesh[0].shape)
