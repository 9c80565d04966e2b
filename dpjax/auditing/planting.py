"""Put canaries into the data and the loss of a training run.

Every row gets a code, the first argument of the loss after the parameters: -1 for an
example of the data, -2 for a canary that is left out, and the number of a canary that
is in. A canary that is left out stays in the data and contributes exactly zero, so that
the number of examples is public and the same whatever the coins.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dp_accounting import NeighboringRelation

from dpjax import _check
from dpjax.auditing import crafting
from dpjax.auditing.canaries import Canaries, ExampleCanaries
from dpjax.auditing.directions import Directions
from dpjax.mechanism import DPSGD
from dpjax.types import ArrayTree, LossFn, Params

ORDINARY = -1
LEFT_OUT = -2


class Planted(NamedTuple):
    """A training run with canaries in it.

    Attributes:
      loss_fn: `loss_fn(params, code, *example) -> scalar`, for ONE example.
      data: (codes, *arrays): N + m rows, the canaries last.
      rows: the canaries' own rows, without codes, m each.
      directions: of gradient canaries, else None.
    """

    loss_fn: LossFn
    data: tuple[ArrayTree, ...]
    rows: tuple[ArrayTree, ...]
    directions: Directions | None


def with_canaries(mechanism: DPSGD, count: int) -> DPSGD:
    """Return the mechanism of a run with `count` canaries among its examples.

    Only the public number of examples grows, and the relation becomes that of the
    coins: a canary that is left out contributes nothing. With Poisson samples the
    sampling probability falls with it, and so does epsilon, a little.
    """
    if not isinstance(mechanism, DPSGD):
        _check.fail("a DPSGD mechanism", "mechanism", mechanism, TypeError)
    return dataclasses.replace(
        mechanism,
        num_examples=mechanism.num_examples + count,
        relation=NeighboringRelation.REPLACE_SPECIAL,
    )


def plant(
    canaries: Canaries,
    coins: np.ndarray,
    mechanism: DPSGD,
    loss_fn: LossFn,
    params: Params,
    data: ArrayTree,
) -> Planted:
    """Return data and loss with canaries in them.

    Args:
      canaries: what to plant.
      coins: (m,) bool: which of them are in.
      mechanism: of the data alone; its sensitivity is the canaries' measure.
      loss_fn: the loss of one example.
      params: parameters, for their shapes.
      data: a pytree of arrays with leading axis N, or a tuple of them.

    Raises:
      ValueError: data that are not of the mechanism's number of examples, more Dirac
        canaries than parameters, or example canaries for data that are not features
        and labels.
    """
    arrays = jax.tree.map(np.asarray, data if type(data) is tuple else (data,))
    size = _check.leading_axis("data", arrays)
    if size != mechanism.num_examples:
        expected = f"data of the mechanism's num_examples={mechanism.num_examples}"
        _check.fail(expected, "its leading axis", size)
    if isinstance(canaries, ExampleCanaries):
        rows, directions = crafting.examples(canaries, arrays), None
        wrapped = _example_loss(loss_fn)
    else:
        rows = jax.tree.map(lambda leaf: np.repeat(leaf[:1], len(coins), 0), arrays)
        directions = Directions.make(canaries, params)
        norm = canaries.scale * mechanism.sensitivity
        wrapped = _gradient_loss(loss_fn, directions, norm)
    numbers = np.where(coins, np.arange(len(coins)), LEFT_OUT)
    codes = np.concatenate([np.full(size, ORDINARY), numbers]).astype(np.int32)
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), arrays, rows)
    return Planted(wrapped, (codes, *joined), rows, directions)


def _example_loss(loss_fn: LossFn) -> Callable[..., jax.Array]:
    def loss(params: Params, code: Any, *example: ArrayTree) -> jax.Array:
        value = loss_fn(params, *example)
        return jnp.where(code == LEFT_OUT, jnp.zeros_like(value), value)

    return loss


def _gradient_loss(
    loss_fn: LossFn, directions: Directions, norm: float
) -> Callable[..., jax.Array]:
    """Return a loss whose gradient is `norm` times its direction for each canary."""

    def loss(params: Params, code: Any, *example: ArrayTree) -> jax.Array:
        value = loss_fn(params, *example)
        canary = norm * directions.inner(params, jnp.maximum(code, 0))
        canary = jnp.where(code == LEFT_OUT, 0, canary)
        return jnp.where(code == ORDINARY, value, canary.astype(value.dtype))

    return loss
