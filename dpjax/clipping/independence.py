"""Find out whether a batched loss mixes its examples."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check
from dpjax.types import ArrayTree, LossFn, Params

_TRIALS = 4


class ExampleDependenceError(ValueError):
    """One example's loss depends on another example: it cannot be clipped alone."""


def check_example_independence(
    loss_fn: LossFn, params: Params, *batch: ArrayTree, has_aux: bool = False
) -> None:
    """Raise when the loss of one example depends on another example of the batch.

    Batch normalisation, contrastive losses, or a softmax over the batch axis make every
    example's gradient a function of the others. Clipping "one example's gradient" then
    bounds nothing. Two rows are replaced, one at a time and together, several times. A
    loss for each row must not change in the other rows; for a loss of the whole batch,
    the effects of the two on the loss and on its gradient must add up (a mixed second
    difference of zero), as they do for any sum or mean over examples, with any term
    that depends on the parameters alone.

    Args:
      loss_fn: `loss_fn(params, *batch)`, a batched loss that returns losses `(batch,)`
        or a scalar. A loss of ONE example cannot hide a dependence: it passes where it
        takes no batch, and is not to be checked where it happens to take one.
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
    by_row = jax.eval_shape(loss_of, params, batch).ndim > 0
    moves = _other_rows_moved if by_row else _effects_do_not_add_up
    mixed = any(moves(loss_of, params, batch, trial) for trial in range(_TRIALS))
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


def _replace_rows(batch: ArrayTree, rows: tuple[int, ...], trial: int) -> ArrayTree:
    """Replace rows by other rows; where values are real, stretched and disturbed."""

    def replace(leaf: Any) -> jax.Array:
        original = np.asarray(leaf)
        changed = original.copy()
        for row in rows:
            generator = np.random.Generator(np.random.Philox(key=[trial, row]))
            donor = original[generator.integers(len(original))]
            changed[row] = donor
            if np.issubdtype(original.dtype, np.floating):
                noise = generator.normal(size=donor.shape).astype(original.dtype)
                changed[row] = (1 + trial) * donor + 0.3 * noise
        return jnp.asarray(changed)

    return jax.tree.map(replace, batch)


def _pair(batch_size: int, trial: int) -> tuple[int, int]:
    """Return two rows: neighbours first, then rows at random."""
    if trial == 0:
        return 0, 1
    generator = np.random.Generator(np.random.Philox(key=trial))
    first, second = generator.choice(batch_size, 2, replace=False)
    return int(first), int(second)


def _other_rows_moved(
    loss_of: Any, params: Params, batch: ArrayTree, trial: int
) -> bool:
    row, _ = _pair(_check.leading_axis("batch", batch), trial)
    before = loss_of(params, batch)
    after = loss_of(params, _replace_rows(batch, (row,), trial))
    scale = float(jnp.max(jnp.abs(before))) + float(jnp.max(jnp.abs(after)))
    others = jnp.abs(before - after).at[row].set(0)
    return float(jnp.max(others)) > 1e-4 * scale


def _effects_do_not_add_up(
    loss_of: Any, params: Params, batch: ArrayTree, trial: int
) -> bool:
    a, b = _pair(_check.leading_axis("batch", batch), trial)
    corners = [batch, *(_replace_rows(batch, r, trial) for r in ((a,), (b,), (a, b)))]
    values = [jax.value_and_grad(loss_of)(params, corner) for corner in corners]
    neither, first, second, both = (
        np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in leaves])
        for leaves in map(jax.tree.leaves, values)
    )
    mixed = np.abs(both - first - second + neither).max()
    moved = max(np.abs(first - neither).max(), np.abs(second - neither).max())
    rounding = 1e-5 * max(np.abs(neither).max(), np.abs(both).max())
    return bool(mixed > 1e-3 * moved + rounding)
