"""Private quantiles of a number that each example has, in a public range."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check
from dpjax.curvature import means
from dpjax.curvature.sources import Private
from dpjax.release import core
from dpjax.release.result import Release
from dpjax.types import KeyLike, Params


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "stderr", "edges", "cumulative"],
    meta_fields=["event"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class QuantileRelease(Release):
    """Private quantiles.

    Attributes:
      stderr: scalar, the largest standard deviation of the noise in a cumulative
        fraction: an error of rank, a fraction of the examples, not of value. Known
        exactly.
      edges: `(num_bins + 1,)`, the ends of the bins.
      cumulative: `(num_bins + 1,)`, the private number of examples below them over the
        public N: from 0 on and never falling, about 1 in the end. Further quantiles may
        be read off it at no price.
    """

    edges: jax.Array
    cumulative: jax.Array


def private_quantile(
    function: Callable[..., jax.Array],
    params: Params,
    batch: Private,
    levels: float | jax.Array,
    *,
    low: float,
    high: float,
    noise_multiplier: float,
    num_bins: int = 256,
    key: KeyLike | None = None,
    expected_batch_size: float | jax.Array | None = None,
    sampling_prob: float | None = None,
    mask: jax.Array | None = None,
    microbatch_size: int | None = None,
) -> QuantileRelease:
    """Release quantiles of a number of each example: one event for all of them.

    The range is cut into bins, and the number of examples below each edge is counted.
    As counts they would move by up to sqrt(num_bins) with one example. So with A the
    matrix of prefix sums, and A = F F its square root (Toeplitz, with coefficients
    f_j = binom(2j, j) / 4^j), what is noised is the sum of one column of F an example,
    and the counts are F times that. Their noise has a standard deviation of at most
    noise_multiplier · |f|^2, and |f|^2 is about 1.07 + log(num_bins) / pi: 2.8 for 256
    bins, where noisy bins added up would have up to 16 (Fichtenberger et al. 2022).

    Noisy counts need not grow. They are replaced by the nearest ones that do (in the
    largest difference); a quantile is where they reach its level times the last of
    them, the noisy number of examples, interpolated inside of a bin. All that is
    post-processing.

    Resolution: a quantile is known to a bin, (high - low) / num_bins, and to a rank of
    about `.stderr`. Values outside of the range are counted into the first or last bin.
    So levels closer to 0 or 1 than a few `.stderr` may come out anywhere between the
    examples and the end of the range: a minimum is nothing that noise can keep.

    Args:
      function: `function(params, *example) -> scalar`, integer or floating.
      params: as in `private_mean`.
      batch: `Private(batch)`, leading axis the examples.
      levels: which quantiles, in [0, 1]: a number, or an array of any shape.
      low: where the range begins. Public: do not read it off the data.
      high: where it ends, above `low`.
      noise_multiplier: noise standard deviation over the sensitivity, 1; >= 0, static.
      num_bins: at least 2. An example takes as many numbers in memory.
      key: as in `private_mean`.
      expected_batch_size: as in `private_mean`.
      sampling_prob: as in `private_mean`.
      mask: booleans `(batch,)`; `False` marks padding.
      microbatch_size: examples worked on at a time, to save memory.

    Returns:
      A `QuantileRelease`; `.value` has the shape of `levels` and lies in [low, high],
      also where the batch is empty (it is then without meaning).

    Guarantee:
      Under add-or-remove-one, with all settings and `params` public, the sum of columns
      has L2 sensitivity 1, and the result is one Gaussian mechanism, `.event`. An
      example with NaN or Inf contributes zero. Noise is shared neither with training
      nor with other kinds of release under the same key.

    Raises:
      ValueError: settings out of range, a function that returns no scalar, or no
        `expected_batch_size` where it is needed.
      TypeError: a batch that is not `Private`, complex numbers, `key=None` under a
        trace.

    References:
      Fichtenberger, Henzinger and Upadhyay 2022, Constant matters: fine-grained
      complexity of differentially private continual observation, arXiv 2202.11205.

    >>> import jax.numpy as jnp
    >>> ages = Private(jnp.arange(10_000) % 100)
    >>> released = private_quantile(lambda _, age: age, None, ages, 0.25, low=0.0,
    ...     high=128.0, noise_multiplier=2.0, num_bins=128, key=0)
    >>> round(float(released.value)), round(float(released.stderr), 4)
    (25, 0.0005)
    """
    bins, levels = _bins(num_bins, low, high), _levels(levels)
    columns = jax.tree_util.Partial(bins, means.as_operand(function), params)
    released = core.release(
        functools.partial(core.clipped_rows, columns, microbatch_size=microbatch_size),
        batch,
        domain="quantile",
        l2_norm_clip=1.0,
        noise_multiplier=noise_multiplier,
        key=key,
        expected_batch_size=expected_batch_size,
        sampling_prob=sampling_prob,
        mask=mask,
    )
    return _read_off(released, bins, levels)


@dataclasses.dataclass(frozen=True)
class _Bins:
    """Bins of equal width; as a function, the column of F / |f| of an example's bin."""

    num_bins: int
    low: float
    high: float

    def __call__(
        self, function: Callable[..., Any], params: Params, *example: Any
    ) -> jax.Array:
        number = jnp.asarray(function(params, *example))
        if number.shape != ():
            _check.fail("a scalar", "function(params, *example).shape", number.shape)
        if jnp.issubdtype(number.dtype, jnp.complexfloating):
            _check.fail("a real number", "its dtype", str(number.dtype), TypeError)
        number = number.astype(means.wide_type(number))
        finite = jnp.isfinite(number)
        place = (number - self.low) / (self.high - self.low) * self.num_bins
        first = jnp.clip(jnp.floor(jnp.where(finite, place, 0)), 0, self.num_bins - 1)
        steps = jnp.arange(self.num_bins) - first.astype(int)
        root = _root(self.num_bins)
        unit = jnp.asarray(root / np.linalg.norm(root), number.dtype)
        column = jnp.where(steps >= 0, unit[jnp.maximum(steps, 0)], 0)
        return jnp.where(finite, column, jnp.nan)


def _bins(num_bins: int, low: float, high: float) -> _Bins:
    num_bins = _check.integer("num_bins", num_bins, minimum=2)
    low, high = _check.real("low", low), _check.real("high", high)
    if not low < high:
        _check.fail(f"a number above low={low}", "high", high)
    if max(-low, high, high - low) > float(np.finfo(np.float32).max):
        _check.fail("a range that float32 holds", "(low, high)", (low, high))
    return _Bins(num_bins, low, high)


@functools.partial(jax.jit, static_argnums=1)
def _read_off(released: Release, bins: _Bins, levels: jax.Array) -> QuantileRelease:
    """Turn the noised sum of columns, over N, into fractions and quantiles."""
    root = _root(bins.num_bins)
    length = float(np.linalg.norm(root))
    cumulative = _monotone(length * _product(root, released.value))
    edges = jnp.linspace(bins.low, bins.high, bins.num_bins + 1)
    edges = edges.astype(cumulative.dtype)
    # The last fraction has the most noise: |f| from scaling, |f| from the row of F.
    return QuantileRelease(
        jnp.interp(levels * cumulative[-1], cumulative, edges),
        released.stderr * length**2,
        released.event,
        edges,
        cumulative,
    )


def _root(size: int) -> np.ndarray:
    """Return f_j = binom(2j, j) / 4^j, (size,), float64."""
    j = np.arange(1, size)
    return np.cumprod(np.concatenate([[1.0], (2 * j - 1) / (2 * j)]))


def _product(root: np.ndarray, values: jax.Array) -> jax.Array:
    """Return the lower triangular Toeplitz matrix of `root` times `values`."""
    coefficients = jnp.asarray(root, values.dtype)
    return jnp.convolve(values, coefficients, precision="highest")[: values.size]


def _monotone(counts: jax.Array) -> jax.Array:
    """Return counts at all edges that never fall, the first of them 0.

    The mean of the running maximum and of the running minimum from the right is nearest
    to what it is made of, in the largest difference, among all that never fall.
    """
    from_left = jax.lax.cummax(counts)
    from_right = jax.lax.cummin(counts, reverse=True)
    rising = jnp.maximum((from_left + from_right) / 2, 0)
    return jnp.concatenate([jnp.zeros(1, rising.dtype), rising])


def _levels(levels: Any) -> jax.Array:
    levels = jnp.asarray(levels)
    if jnp.issubdtype(levels.dtype, jnp.complexfloating):
        _check.fail("real numbers", "levels.dtype", str(levels.dtype), TypeError)
    inside = (levels >= 0) & (levels <= 1)
    if not _check.is_traced(levels) and not bool(inside.all()):
        _check.fail("numbers in [0, 1]", "levels", levels)
    return levels
