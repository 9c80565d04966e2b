"""Find out whether a batched loss mixes its examples."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check
from dpjax.types import ArrayTree, LossFn, Params


class ExampleDependenceError(ValueError):
    """One example's loss depends on another example: it cannot be clipped alone."""


def check_example_independence(
    loss_fn: LossFn, params: Params, *batch: ArrayTree, has_aux: bool = False
) -> None:
    """Raise when the loss of one example depends on another example of the batch.

    Batch normalisation, contrastive losses, or a softmax over the batch axis make every
    example's gradient a function of the others. Clipping "one example's gradient" then
    bounds nothing. Two rows are replaced, one at a time and together. A loss for each
    row must not change in the other rows; for a loss of the whole batch, the effects of
    the two on the loss and on its gradient must add up (a mixed second difference of
    zero), as they do for any sum or mean over examples, with any term that depends on
    the parameters alone.

    Args:
      loss_fn: `loss_fn(params, *batch)`, a batched loss that returns losses `(batch,)`
        or a scalar. A loss of ONE example cannot hide a dependence; it passes.
      params: the parameters at which to look.
      *batch: pytrees of arrays with a leading axis `(batch,)`, at least two examples
        that differ.
      has_aux: whether `loss_fn` returns auxiliary data beside the loss.

    Raises:
      ExampleDependenceError: the loss mixes examples.
      ValueError: fewer than two examples, or batch axes that differ.
    """
    batch_size = _check.leading_axis("batch", batch)
    if batch_size < 2:
        _check.fail("at least 2 examples to compare", "batch size", batch_size)

    def loss_of(params: Params, batch: tuple[ArrayTree, ...]) -> jax.Array:
        out = loss_fn(params, *batch)
        return out[0] if has_aux else out

    if not _takes_batches(loss_of, params, batch):
        return
    both = _replace_rows(batch, (0, 1))
    first, second = _replace_rows(batch, (0,)), _replace_rows(batch, (1,))
    rows = jax.eval_shape(loss_of, params, batch).ndim > 0
    if rows:
        mixed = _other_rows_moved(loss_of, params, batch, first)
    else:
        mixed = _mixed_difference(loss_of, params, (batch, first, second, both))
    if mixed:
        raise ExampleDependenceError(
            "Expected a loss whose value for one example depends on no other, got a "
            "loss_fn that mixes the examples of a batch (batch normalisation, a "
            "contrastive loss, statistics over axis 0). Use a per-example layer such "
            "as group or layer normalisation."
        )


def _takes_batches(loss_of: Any, params: Params, batch: Any) -> bool:
    batch_size = _check.leading_axis("batch", batch)
    try:
        shape = jax.eval_shape(loss_of, params, batch).shape
    except (TypeError, ValueError):
        return False
    return shape in ((), (batch_size,))


def _replace_rows(batch: ArrayTree, rows: tuple[int, ...]) -> ArrayTree:
    generator = np.random.Generator(np.random.Philox(key=0))

    def replace(leaf: Any) -> np.ndarray:
        original = np.asarray(leaf)
        changed = original.copy()
        for row in rows:
            donor = original[(row + len(original) // 2) % len(original)]
            changed[row] = donor
            if np.issubdtype(original.dtype, np.floating):
                noise = generator.normal(size=donor.shape)
                changed[row] = donor * 1.25 + 0.1 * noise.astype(original.dtype)
        return changed

    return jax.tree.map(replace, batch)


def _other_rows_moved(
    loss_of: Any, params: Params, batch: ArrayTree, changed: ArrayTree
) -> bool:
    before, after = loss_of(params, batch), loss_of(params, changed)
    scale = float(jnp.max(jnp.abs(before))) + float(jnp.max(jnp.abs(after)))
    return float(jnp.max(jnp.abs(before - after)[1:])) > 1e-4 * scale


def _mixed_difference(loss_of: Any, params: Params, corners: Any) -> bool:
    values = [jax.value_and_grad(loss_of)(params, batch) for batch in corners]
    neither, first, second, both = (
        np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in leaves])
        for leaves in map(jax.tree.leaves, values)
    )
    mixed = np.abs(both - first - second + neither).max()
    moved = max(np.abs(first - neither).max(), np.abs(second - neither).max())
    rounding = 1e-5 * max(np.abs(neither).max(), np.abs(both).max())
    return bool(mixed > 1e-3 * moved + rounding)
