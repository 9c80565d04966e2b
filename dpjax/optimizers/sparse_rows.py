"""A private average that keeps embedding tables sparse: noise on chosen rows alone."""

import dataclasses
import math
from typing import Any, NamedTuple, Self

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
from dpjax.optimizers.touched_rows import (
    RowCounts,
    Tables,
    on_rows,
    row_counts,
    tables_of,
    touched,
)
from dpjax.types import ArrayTree, KeyLike, Params


class SparseRowState(NamedTuple):
    """State of the private step on chosen rows.

    Attributes:
      private: of the average: key, step, and what was spent.
      rows: by table, in the order of leaves, booleans (rows,): those chosen last.
        Released, and private to show.
    """

    private: PrivateAggregateState
    rows: list[jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowGrads:
    """A clipped sum of gradients on the rows that an optimizer's state holds.

    `a + b` adds those of disjoint examples, as with `ClippedGrads`.

    Attributes:
      grads: the clipped sum, without the raw quantities of examples.
    """

    grads: clipping.ClippedGrads

    def __add__(self, other: "RowGrads") -> "RowGrads":
        """Add the sums of disjoint examples, on the same rows."""
        return RowGrads(self.grads + other.grads)


@dataclasses.dataclass(frozen=True)
class RowSettings:
    """The settings of the counts, checked; as in `sparse_row_aggregate`."""

    noise_multiplier: float
    threshold: float
    count_noise: float
    count_clip: float

    @classmethod
    def checked(
        cls, noise_multiplier: Any, threshold: Any, count_noise: Any, count_clip: Any
    ) -> Self:
        """Check each by itself, and the two noises against each other."""
        z = _check.positive("noise_multiplier", noise_multiplier)
        spread = _check.positive("count_noise", count_noise)
        if spread <= z:
            _check.fail(f"more than noise_multiplier={z:g}", "count_noise", spread)
        least = _check.real("threshold", threshold)
        return cls(z, least, spread, _check.positive("count_clip", count_clip))

    @property
    def average_noise(self) -> float:
        """Noise multiplier of the average, beside that of the counts."""
        z = self.noise_multiplier
        return z / math.sqrt(1 - (z / self.count_noise) ** 2)

    def chosen(self, state: SparseRowState, counts: RowCounts) -> SparseRowState:
        """Return the state with the rows of a step, from its raw counts."""
        private = state.private
        drawn = noise.gaussian_noise(
            private.key, private.step, counts, self.count_noise * self.count_clip
        )
        noisy = jax.tree.map(jnp.add, counts, drawn)
        rows = [count >= self.threshold for count in noisy.rows_touched]
        return SparseRowState(private, rows)


def sparse_row_aggregate(
    l2_norm_clip: Any,
    noise_multiplier: float,
    key: KeyLike | None = None,
    *,
    tables: Tables,
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
      gradients, leaves (batch, ...), with `mask=` for padding, or the `RowGrads` of a
      step whose rows were chosen before: for `fit`, `SparseRowClip` holds the settings.
      Rows that are not chosen are exactly zero in what it returns. (`check_optimizer`
      knows of one clip a step, and refuses it.)

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
    settings = RowSettings.checked(noise_multiplier, threshold, count_noise, count_clip)
    own = settings.average_noise
    of_average = checked(l2_norm_clip, own, expected_batch_size, sampling_prob, 1)
    plain = differentially_private_aggregate(
        of_average.rule,
        own,
        key,
        expected_batch_size=expected_batch_size,
        sampling_prob=sampling_prob,
    )

    def init(params: Params) -> SparseRowState:
        rows = [jnp.zeros(leaf.shape[0], bool) for leaf in tables_of(params, tables)]
        return SparseRowState(plain.init(params), rows)

    def update(
        updates: Any,
        state: SparseRowState,
        params: Params | None = None,
        *,
        mask: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[ArrayTree, SparseRowState]:
        del extra_args  # meant for other members of a chain
        if updates is None or isinstance(updates, clipping.ClippedGrads):
            kind = type(updates).__name__
            what = "RowGrads, or per-example gradients"
            _check.fail(what, "type(updates)", kind)
        if isinstance(updates, RowGrads):
            given, size = updates.grads, None
        else:
            found = jax.vmap(lambda grads: touched(grads, tables))(updates)
            counts = row_counts(*found, mask, settings.count_clip)
            state = settings.chosen(state, counts)
            given, size = on_rows(updates, state.rows, tables, axis=1), mask
        rule = of_average.rule
        grads, like = clipped(given, params, rule, None, None, size)
        average, private = release(
            grads, state.private, of_average, like, accounted=settings.noise_multiplier
        )
        sparse = on_rows(average, state.rows, tables, axis=0)
        return sparse, SparseRowState(private, state.rows)

    return optax.GradientTransformationExtraArgs(init, update)
