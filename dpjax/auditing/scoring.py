"""Scores of canaries: the larger, the more a canary seems to have been in."""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.auditing.directions import Directions
from dpjax.types import ArrayTree, LossFn, Params

Rows = tuple[ArrayTree, ...]

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


def final_losses(loss_fn: LossFn, rows: Rows, trail: Sequence[Params]) -> np.ndarray:
    """Return minus the loss of each canary at the last parameters, (m,)."""
    return -_each(loss_fn, rows)(trail[-1])


def loss_drops(loss_fn: LossFn, rows: Rows, trail: Sequence[Params]) -> np.ndarray:
    """Return the first loss of each canary less the mean of the later ones, (m,)."""
    losses = _each(loss_fn, rows)
    first, *later = (losses(params) for params in trail)
    return first - np.mean(later, axis=0)


def gradient_products(
    loss_fn: LossFn, rows: Rows, trail: Sequence[Params]
) -> np.ndarray:
    """Return how far each canary's gradients pushed the way that was gone, (m,).

    The sum, over the ways from one checkpoint to the next, of the inner product of the
    canary's gradient at the first with the way back, over the gradient's norm.
    """

    def product(way: tuple[Params, Params], *row: ArrayTree) -> jax.Array:
        before, after = way
        gradient = jax.grad(loss_fn)(before, *row)
        back = jax.tree.map(jnp.subtract, before, after)
        leaves = [jax.tree.leaves(tree) for tree in (gradient, back)]
        along = sum(jnp.vdot(g, b) for g, b in zip(*leaves, strict=True))
        square = sum(jnp.vdot(g, g) for g in leaves[0])
        least = jnp.finfo(jnp.result_type(square)).tiny
        return along / jnp.sqrt(jnp.maximum(square, least))

    products = _each(product, rows)
    return np.sum([products(way) for way in itertools.pairwise(trail)], axis=0)


def _each(
    function: Callable[..., jax.Array], rows: Rows
) -> Callable[[ArrayTree], np.ndarray]:
    """Return a function: `function` of its argument and each row, (m,) float64."""

    @jax.jit
    def all_of(argument: ArrayTree) -> jax.Array:
        return jax.lax.map(
            lambda row: function(argument, *row), rows, batch_size=_AT_ONCE
        )

    return lambda argument: np.asarray(all_of(argument), np.float64)


OF_EXAMPLES = {
    "loss": final_losses,
    "checkpoints": loss_drops,
    "gradient": gradient_products,
}
"""The scores of example canaries, by name."""
