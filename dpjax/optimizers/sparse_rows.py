"""A private average that keeps embedding tables sparse: noise on chosen rows alone."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dpjax import _check, clipping, noise
from dpjax.optimizers.aggregate import (
    PrivateAggregateState,
    differentially_private_aggregate,
    release,
)
from dpjax.optimizers.incoming import clipped
from dpjax.optimizers.settings import Number, checked
from dpjax.types import ArrayTree, KeyLike, Params


class RowCounts(NamedTuple):
    """Noisy counts of rows: a tree of its own name, so that its noise is its own.

    Attributes:
      rows_touched: by table, in the order of leaves, (rows,) each.
    """

    rows_touched: list[jax.Array]


def sparse_row_aggregate(
    l2_norm_clip: Any,
    noise_multiplier: float,
    key: KeyLike | None = None,
    *,
    tables: Callable[[str], bool],
    threshold: float,
    count_noise: float,
    count_clip: float = 1.0,
    expected_batch_size: Number | None = None,
    sampling_prob: Number | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Turn per-example gradients into a private average with few rows of tables in it.

    An example touches few rows of an embedding table, and noise on all others is
    nothing but harm: to utility, and to whatever could have used that updates are
    sparse. So each step first releases which rows the batch touches often, and then the
    average of those rows (and of all other leaves) alone. For tables with c rows:

        counts = sum_i clip(v_i) + count_noise count_clip N(0, I),  v_i in {0, 1}^c
        rows   = counts >= threshold
        g      = (sum_i clip(g_i on rows) + noise on rows) / N

    with v_i the rows in which g_i is not zero, clipped to the norm count_clip. Both
    together cost what one Gaussian release of `noise_multiplier` z costs, and that is
    what `privacy_spent` counts: g has the noise multiplier (1 / z^2 - 1 /
    count_noise^2)^(-1/2), a little above z.

    Args:
      l2_norm_clip: of g_i, as for `differentially_private_aggregate`; all leaves.
      noise_multiplier: z > 0, of a whole step.
      key: PRNG key, key data or seed; `None` draws fresh entropy at `init`.
      tables: `tables(path) -> bool`: which leaves are tables, axis 0 their rows.
      threshold: on noisy counts, in examples times what clipping leaves of each: an
        example that touches n rows adds min(1, count_clip / sqrt(n)) to each.
      count_noise: standard deviation of a count over count_clip, above z.
      count_clip: norm > 0 to which v_i is clipped.
      expected_batch_size: the public divisor N.
      sampling_prob: probability of Poisson sampling, for the accounting.

    Returns:
      An optax transformation, the first of a chain. `update` takes per-example
      gradients, leaves (batch, ...), with `mask=` for padding. Rows that are not
      chosen are exactly zero in what it returns. (`check_optimizer` knows of one clip
      a step, and refuses it.)

    Guarantee:
      Under add-or-remove-one every step is a Gaussian mechanism of noise multiplier z,
      subsampled with `sampling_prob` if batches are drawn so. Counts have the
      sensitivity count_clip. Rows are a function of the noisy counts; given them, the
      sum of clipped gradients on these rows has the sensitivity of the clip, and two
      Gaussian releases on one batch, the second chosen by the first, have 1 / z^2 = 1 /
      count_noise^2 + 1 / (noise of g)^2. Which rows an update has may be seen.

    Raises:
      ValueError: a setting out of range, `count_noise` of z or less, no table, or a
        `ClippedGrads`, in which rows are added up already.
      TypeError: arguments of the wrong type.

    References:
      Ghazi, Huang, Kamath, Kumar, Manurangsi, Sinha and Zhang (2023), Sparsity-
      preserving differentially private training of large embedding models,
      arXiv 2311.08357: DP-AdaFEST.

    Example:
      >>> private = sparse_row_aggregate(1.0, 1.0, key=0, tables=lambda path: True,
      ...     threshold=20.0, count_noise=4.0)
      >>> grads = jnp.zeros((64, 1000, 2)).at[:, 7].set(1.0)  # all touch row 7
      >>> average, _ = private.update(grads, private.init(grads[0]), grads[0])
      >>> jnp.flatnonzero(average.any(axis=1))
      Array([7], dtype=int32)
    """
    z = _check.positive("noise_multiplier", noise_multiplier)
    spread = _check.positive("count_noise", count_noise)
    if spread <= z:
        _check.fail(f"more than noise_multiplier={z:g}", "count_noise", spread)
    least = _check.real("threshold", threshold)
    clip = _check.positive("count_clip", count_clip)
    own = z / math.sqrt(1 - (z / spread) ** 2)
    settings = checked(l2_norm_clip, own, expected_batch_size, sampling_prob, 1)
    plain = differentially_private_aggregate(
        settings.rule,
        own,
        key,
        expected_batch_size=expected_batch_size,
        sampling_prob=sampling_prob,
    )

    def init(params: Params) -> PrivateAggregateState:
        _chosen(params, tables)
        return plain.init(params)

    def update(
        updates: ArrayTree,
        state: PrivateAggregateState,
        params: Params | None = None,
        *,
        mask: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[ArrayTree, PrivateAggregateState]:
        del extra_args  # meant for other members of a chain
        if updates is None or isinstance(updates, clipping.ClippedGrads):
            kind = type(updates).__name__
            _check.fail("per-example gradients", "type(updates)", kind)
        counts = _row_counts(updates, _chosen(updates, tables), mask, clip)
        drawn = noise.gaussian_noise(state.key, state.step, counts, spread * clip)
        noisy = jax.tree.map(jnp.add, counts, drawn)
        rows = [count >= least for count in noisy.rows_touched]
        kept = _on_rows(updates, rows, tables, axis=1)
        grads, like = clipped(kept, params, settings.rule, None, None, mask)
        average, state = release(grads, state, settings, like, accounted=z)
        return _on_rows(average, rows, tables, axis=0), state

    return optax.GradientTransformationExtraArgs(init, update)


def _chosen(tree: ArrayTree, tables: Callable[[str], bool]) -> list[Any]:
    """Return the leaves that are tables."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    found = [leaf for path, leaf in leaves if tables(_check.path_name(path))]
    if not found or any(jnp.ndim(leaf) == 0 for leaf in found):
        _check.fail("at least one table, and rows in each", "tables", tables)
    return found


def _row_counts(
    updates: ArrayTree, chosen: list[jax.Array], mask: jax.Array | None, clip: float
) -> RowCounts:
    """Return the sums over examples of the rows that each touches, clipped."""
    touched = [
        jnp.any(leaf != 0, axis=tuple(range(2, leaf.ndim))).astype(jnp.float32)
        for leaf in chosen
    ]
    keep = jnp.ones(touched[0].shape[0], bool) if mask is None else mask
    for leaf in jax.tree.leaves(updates):
        keep &= jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim)))
    number = sum(jnp.sum(rows, axis=1) for rows in touched)
    # A root rounded to nearest and a quotient: one part in 2^22 is kept in hand.
    bound = clip * (1 - 2.0**-22)
    root = jnp.sqrt(jnp.maximum(number, 1.0))
    factor = jnp.where(keep, jnp.minimum(1.0, bound / root), 0.0)
    return RowCounts(
        [jnp.einsum("b,br->r", factor, rows, precision="highest") for rows in touched]
    )


def _on_rows(
    tree: ArrayTree,
    rows: list[jax.Array],
    tables: Callable[[str], bool],
    *,
    axis: int,
) -> ArrayTree:
    """Return the tree with zeros in the rows of tables that are not chosen."""
    left = iter(rows)

    def kept(path: Any, leaf: jax.Array) -> jax.Array:
        if not tables(_check.path_name(path)):
            return leaf
        shape = (1,) * axis + (-1,) + (1,) * (leaf.ndim - axis - 1)
        return jnp.where(next(left).reshape(shape), leaf, jnp.zeros_like(leaf))

    return jax.tree_util.tree_map_with_path(kept, tree)
