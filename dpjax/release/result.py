"""What a release returns: a private value, its noise, and its price."""

import dataclasses
import functools

import dp_accounting
import jax

from dpjax.types import ArrayTree


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "stderr"],
    meta_fields=["event"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Release:
    """A statistic of private data with noise.

    Whatever is computed from it costs nothing more.

    Attributes:
      value: the statistic, float32 at least.
      stderr: scalar, the standard deviation of the noise in each entry of `value`. It
        is known exactly and public. What clipping took away, and how far the batch is
        from the population, is not in it.
      event: the one event to spend in a ledger: `GaussianDpEvent(noise_multiplier)`, or
        that inside of `PoissonSampledDpEvent(sampling_prob, ...)`.
    """

    value: ArrayTree
    stderr: jax.Array
    event: dp_accounting.DpEvent
