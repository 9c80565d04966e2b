"""Noise on chosen rows of tables, for a mechanism to hold."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dpjax import _apart, _check
from dpjax.clipping import PerExample
from dpjax.clipping.arguments import Roles
from dpjax.clipping.microbatch import Summed, in_microbatches
from dpjax.optimizers.released_clip import (
    ReleasedClip,
    StepGradient,
    Survey,
    raw_quantities,
)
from dpjax.optimizers.scaled_grads import clipped_scaled_grad
from dpjax.optimizers.settings import Number
from dpjax.optimizers.sparse_rows import (
    RowGrads,
    RowSettings,
    SparseRowState,
    sparse_row_aggregate,
)
from dpjax.optimizers.states import the_state, with_state
from dpjax.optimizers.touched_rows import (
    named,
    on_rows,
    row_counts,
    touched,
)
from dpjax.types import ArrayTree, KeyLike, LossFn, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseRowClip(ReleasedClip):
    """Choose the rows of tables that a batch touches often, then clip on these alone.

    Attributes:
      l2_norm_clip: of gradients on the chosen rows, and of all other leaves. This and
        the rest as in `sparse_row_aggregate`; all are public.
      tables: regular expression; leaves in whose paths, such as "['embed']['table']",
        it is found are tables, axis 0 their rows.
      threshold: on noisy counts.
      count_noise_ratio: `count_noise` over the noise multiplier of a step, above 1.
      count_clip: > 0.

    Raises:
      ValueError: a setting out of range.
    """

    l2_norm_clip: Any
    tables: str
    threshold: float
    count_noise_ratio: float = 4.0
    count_clip: float = 1.0

    def __post_init__(self) -> None:
        """Check each setting by itself."""
        self._settings(1.0)

    @property
    def first(self) -> Any:
        """The clip norm, that of every step."""
        return self.l2_norm_clip

    def aggregate(
        self,
        noise_multiplier: float,
        key: KeyLike | None,
        *,
        expected_batch_size: float,
        sampling_prob: Number | None,
    ) -> optax.GradientTransformationExtraArgs:
        """Return `sparse_row_aggregate` with these settings."""
        return sparse_row_aggregate(
            self.l2_norm_clip,
            noise_multiplier,
            key,
            tables=named(self.tables),
            threshold=self.threshold,
            count_noise=self.count_noise_ratio * noise_multiplier,
            count_clip=self.count_clip,
            expected_batch_size=expected_batch_size,
            sampling_prob=sampling_prob,
        )

    def step_gradient(self, loss_fn: LossFn, **options: Any) -> StepGradient:
        """Return the gradient of a chunk, on the rows in the optimizer's state."""
        clipped = clipped_scaled_grad(loss_fn, self.l2_norm_clip, **options)
        tables = named(self.tables)

        def gradient(
            opt_state: ArrayTree, params: Params, *batch: Any, mask: Any
        ) -> tuple[RowGrads, PerExample]:
            rows = the_state(opt_state, SparseRowState).rows
            ones = jax.tree.map(jnp.ones_like, params)
            kept = on_rows(ones, rows, tables, axis=0)
            grads = clipped(params, kept, *batch, mask=mask)
            return RowGrads(grads.without_per_example()), raw_quantities(grads)

        return gradient

    def survey(
        self,
        noise_multiplier: float,
        loss_fn: LossFn,
        *,
        prng_argnum: int | None = None,
        keep_batch_dim: bool = False,
        microbatch_size: int | None = None,
        **options: Any,
    ) -> Survey:
        """Return the counts of rows, and how rows are chosen from them.

        Each gradient is formed for it, `microbatch_size` at a time.
        """
        del options
        settings = self._settings(noise_multiplier)
        tables = named(self.tables)
        roles = Roles.make(0, None, prng_argnum, keep_batch_dim, has_aux=False)

        def look(
            opt_state: ArrayTree, params: Params, *batch: Any, mask: Any
        ) -> ArrayTree:
            del opt_state
            arguments = roles.sort((params, *batch))
            loss = roles.example_loss(loss_fn, arguments.constants)
            size = _check.leading_axis("batch", arguments.examples)
            keys = roles.example_keys(arguments.key, jnp.arange(size))

            def gradient(example: Any) -> Any:
                return jax.grad(loss, has_aux=True)(params, *example)[0]

            def counts(examples: Any, mask: jax.Array | None) -> Summed:
                grads = _apart.mapped(gradient, examples)
                rows, finite = jax.vmap(lambda one: touched(one, tables))(grads)
                found = row_counts(rows, finite, mask, self.count_clip)
                return found, PerExample(None, None)

            examples = (arguments.examples, keys)
            return in_microbatches(counts, examples, mask, microbatch_size)[0]

        def choose(opt_state: ArrayTree, total: ArrayTree) -> ArrayTree:
            return with_state(
                opt_state, SparseRowState, lambda found: settings.chosen(found, total)
            )

        return Survey(look, choose)

    def _settings(self, noise_multiplier: float) -> RowSettings:
        spread = self.count_noise_ratio * noise_multiplier
        return RowSettings.checked(
            noise_multiplier, self.threshold, spread, self.count_clip
        )
