"""Scores of canaries: the larger, the more a canary seems to have been in."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.auditing.directions import Directions
from dpjax.types import ArrayTree, LossFn, Params

_AT_ONCE = 100


def released(
    directions: Directions, total: ArrayTree, background: ArrayTree | None, unit: float
) -> np.ndarray:
    """Return how much of what was released lies along each canary's direction, (m,).

    Args:
      directions: of the canaries.
      total: sum of the noised sums that were released, shaped like the parameters.
      background: what the data are expected to have added to it, or None.
      unit: what a canary that is in adds to it, expectedly: it scores about 1.
    """
    found = directions.products(total)
    if background is not None:
        found = found - directions.products(background)
    return found / unit


def displacement(directions: Directions, before: Params, after: Params) -> np.ndarray:
    """Return how far the parameters moved against each canary's direction, (m,)."""
    first, last = (directions.products(params) for params in (before, after))
    return first - last


def final_losses(
    loss_fn: LossFn, rows: tuple[ArrayTree, ...], trail: Sequence[Params]
) -> np.ndarray:
    """Return minus the loss of each canary at the last parameters, (m,)."""
    return -losses(loss_fn, trail[-1], rows)


def loss_drops(
    loss_fn: LossFn, rows: tuple[ArrayTree, ...], trail: Sequence[Params]
) -> np.ndarray:
    """Return the first loss of each canary less the mean of the later ones, (m,)."""
    first, *later = (losses(loss_fn, params, rows) for params in trail)
    return first - np.mean(later, axis=0)


def gradient_products(
    loss_fn: LossFn, rows: tuple[ArrayTree, ...], trail: Sequence[Params]
) -> np.ndarray:
    """Return how far each canary's gradients pushed the way that was gone, (m,).

    The sum, over the ways from one checkpoint to the next, of the inner product of the
    canary's gradient at the first with the way back, over the gradient's norm.
    """
    total = np.zeros(len(jax.tree.leaves(rows)[0]))
    for before, after in itertools.pairwise(trail):
        back = jax.tree.map(jnp.subtract, before, after)
        total += _products(loss_fn, before, back, rows)
    return total


def losses(loss_fn: LossFn, params: Params, rows: tuple[ArrayTree, ...]) -> np.ndarray:
    """Return the loss of each row, (m,) float64."""

    @jax.jit
    def all_of(params: Params) -> jax.Array:
        return jax.lax.map(lambda row: loss_fn(params, *row), rows, batch_size=_AT_ONCE)

    return np.asarray(all_of(params), np.float64)


def _products(
    loss_fn: LossFn, params: Params, back: ArrayTree, rows: tuple[ArrayTree, ...]
) -> np.ndarray:
    @jax.jit
    def all_of(params: Params, back: ArrayTree) -> jax.Array:
        def one(row: tuple[ArrayTree, ...]) -> jax.Array:
            gradient = jax.grad(loss_fn)(params, *row)
            pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(back), strict=True)
            product = sum(jnp.vdot(g, b) for g, b in pairs)
            square = sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient))
            tiny = jnp.finfo(jnp.result_type(square)).tiny
            return product / jnp.sqrt(jnp.maximum(square, tiny))

        return jax.lax.map(one, rows, batch_size=_AT_ONCE)

    return np.asarray(all_of(params, back), np.float64)


OF_EXAMPLES = {
    "loss": final_losses,
    "checkpoints": loss_drops,
    "gradient": gradient_products,
}
"""The scores of example canaries, by name."""
