"""The private mean on a grid of integers, with discrete Gaussian noise."""

import dataclasses
import fractions
import functools
import math
from collections.abc import Callable
from typing import Any

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _apart, _check, clipping, noise
from dpjax.clipping import aggregate, arguments, rules
from dpjax.curvature import means
from dpjax.curvature.sources import Private
from dpjax.noise.discrete import discrete_gaussian_noise
from dpjax.optimizers import settings
from dpjax.optimizers.aggregate import public_divisor
from dpjax.release import core
from dpjax.release.result import Release
from dpjax.types import ArrayTree, KeyLike, Params

_FINEST = 2.0**26
"""Most steps of the grid to a sensitivity: sums of squares are exact in float64."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "stderr", "integers"],
    meta_fields=["event", "granularity"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class DiscreteRelease(Release):
    """A private mean, with the integers that it was made of.

    Attributes:
      integers: int64 NumPy arrays, the noisy sum in steps of the grid. This is what the
        mechanism releases; `.value` is computed from it.
      granularity: the step of the grid.
    """

    integers: ArrayTree
    granularity: float


def private_discrete_mean(
    function: Callable[..., ArrayTree],
    params: Params,
    batch: Private,
    *,
    l2_norm_clip: Any,
    noise_multiplier: float,
    granularity: float,
    key: KeyLike | None = None,
    expected_batch_size: float | None = None,
    mask: jax.Array | None = None,
    microbatch_size: int | None = None,
) -> DiscreteRelease:
    """Release the mean of a function of one example, with noise that is integers.

    Each clipped f(params, x_i) is rounded to the nearest multiple of g, and what is
    added up and noised are integers: no rounding depends on the other examples, and no
    float shows through the noise. The value is (sum + noise) g / N with a public N.

    | an example                                 | contributes                       |
    | ------------------------------------------ | --------------------------------- |
    | f is NaN or Inf, or it is masked           | zero                              |
    | all of f below g / 2                       | zero: the price of a coarse grid  |

    Args:
      function: as in `private_mean`; the clip and f itself are computed in JAX.
      params: as in `private_mean`.
      batch: `Private(batch)`, leading axis the examples.
      l2_norm_clip: C, as in `private_mean`, but static.
      noise_multiplier: noise standard deviation over the sensitivity, > 0, static.
      granularity: g > 0, public. With d numbers an example, choose it well below
        C / sqrt(d): the sensitivity grows to C + g sqrt(d) / 2.
      key: as in `private_mean`, but `None` takes every byte of the noise from the
        operating system: there is no key of 64 bits, and no second draw.
      expected_batch_size: as in `private_mean`: the public divisor.
      mask: booleans `(batch,)`; `False` marks padding.
      microbatch_size: examples worked on at a time, to save memory.

    Returns:
      A `DiscreteRelease`; `.stderr` is a bound that is right to 1e-5 where the noise is
      wider than the grid.

    Guarantee:
      Under add-or-remove-one, with all settings and `params` public, the sum of
      integers has L2 sensitivity S / g with S = C + g sqrt(d) / 2: rounding moves a
      vector of d numbers by at most g sqrt(d) / 2. This does not rest on floating
      point: an example whose integers have a larger norm, exactly computed, is left
      out. Noise is discrete Gaussian with a standard deviation of at least
      noise_multiplier S / g: the release is `.event`, 1 / (2 noise_multiplier^2)-zCDP.
      Nothing is claimed of sampling: a smaller batch is not amplified.

    Raises:
      ValueError: settings out of range, a grid finer than S / 2^26, or no
        `expected_batch_size` where it is needed.
      TypeError: a batch that is not `Private`, results that are not real floats.
      EntropyError: `key` is None and there is no secure source.

    References:
      Canonne, Kamath and Steinke (2020), The discrete Gaussian for differential
      privacy, arXiv 2004.00010; Kairouz, Liu and Steinke (2021), The distributed
      discrete Gaussian mechanism, arXiv 2102.06387 (who round at random, together with
      a rotation, and have a smaller bound).

    >>> heights = Private(jnp.array([1.6, 1.8, 1.7, 1.9]))
    >>> released = private_discrete_mean(lambda _, x: x, None, heights,
    ...     l2_norm_clip=2.0, noise_multiplier=1.0, granularity=2.0**-10, key=0)
    >>> released.event, released.integers.dtype
    (ZCDpEvent(rho=0.5, xi=0.0), dtype('int64'))
    """
    multiplier = _check.positive("noise_multiplier", noise_multiplier)
    checked = settings.checked(
        l2_norm_clip, multiplier, expected_batch_size, None, max_copies=1
    )
    step = _check.positive("granularity", granularity)
    args = core.examples(batch)
    mask = arguments.as_mask(mask, _check.leading_axis("batch", args))
    rows = jax.tree_util.Partial(_applied, means.as_operand(function), params)
    grid = _Grid.make(checked.rule, step, jax.eval_shape(rows, *_one(args)))
    total = grid.summed(rows, args, mask, microbatch_size)
    size = _check.leading_axis("batch", args) if mask is None else None
    grads = clipping.ClippedGrads(total, None, grid.sensitivity, size)
    divisor = public_divisor(grads, checked)
    return _noised(total, grid, multiplier, float(divisor), _words(key))


@dataclasses.dataclass(frozen=True)
class _Grid:
    """A clipping rule, a step, and the sensitivity, in steps, that they have."""

    rule: rules.ClippingRule
    step: float
    like: ArrayTree
    sensitivity: float

    @classmethod
    def make(cls, rule: rules.ClippingRule, step: float, like: ArrayTree) -> "_Grid":
        _check.real_leaves("function(params, *example)", like)
        size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(like))
        clip = _check.positive("l2_norm_clip", rule.sensitivity)
        sensitivity = clip / step + math.sqrt(size) / 2
        if sensitivity > _FINEST:
            what = f"a grid of at most 2**26 steps to a sensitivity of {clip}"
            _check.fail(what, "granularity", step)
        return cls(rule, step, like, sensitivity)

    def summed(
        self, rows: Any, args: tuple[Any, ...], mask: Any, microbatch_size: int | None
    ) -> ArrayTree:
        """Return the sum of all examples' integers: int64 NumPy arrays."""
        batch_size = _check.leading_axis("batch", args)
        chunk = max(batch_size, 1)
        if microbatch_size is not None:
            chunk = _check.integer("microbatch_size", microbatch_size, minimum=1)
        keep = jnp.ones(batch_size, bool) if mask is None else mask
        total = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.int64), self.like)
        for start in range(0, batch_size, chunk):
            part = slice(start, start + chunk)
            piece = jax.tree.map(lambda leaf, part=part: leaf[part], args)
            clipped = _clipped_rows(rows, piece, keep[part], self.rule)
            total = jax.tree.map(np.add, total, self.integer_sum(clipped))
        return total

    def integer_sum(self, clipped: ArrayTree) -> ArrayTree:
        """Return the sum of clipped rows, each rounded, and left out if too long.

        Squares of integers, and their sums, are exact in float64 up to 2^53, which is
        above any limit; from there on they stay above it.
        """
        rounded = jax.tree.map(
            lambda leaf: np.rint(np.asarray(leaf, np.float64) / self.step), clipped
        )
        squares = sum(
            np.square(leaf).reshape(leaf.shape[0], -1).sum(axis=1)
            for leaf in jax.tree.leaves(rounded)
        )
        fits = squares <= math.floor(fractions.Fraction(self.sensitivity) ** 2)
        return jax.tree.map(
            lambda leaf: leaf[fits].astype(np.int64).sum(axis=0), rounded
        )


def _noised(
    total: ArrayTree,
    grid: _Grid,
    multiplier: float,
    divisor: float,
    words: jax.Array | None,
) -> DiscreteRelease:
    """Add the noise to the integers, and say what they stand for."""
    stddev = multiplier * grid.sensitivity
    drawn = discrete_gaussian_noise(words, 0, total, stddev)
    integers = jax.tree.map(np.add, total, drawn)
    unit = grid.step / divisor
    return DiscreteRelease(
        jax.tree.map(lambda n: jnp.asarray(n * unit, float), integers),
        jnp.asarray(stddev * unit),
        dp_accounting.ZCDpEvent(0.5 / multiplier**2),
        integers,
        grid.step,
    )


@jax.jit
def _clipped_rows(
    function: jax.tree_util.Partial,
    batch: tuple[ArrayTree, ...],
    mask: jax.Array,
    rule: rules.ClippingRule,
) -> ArrayTree:
    """Return each example's clipped result: leaves (batch, ...)."""

    def clipped(keep: jax.Array, result: ArrayTree) -> ArrayTree:
        row = jax.tree.map(lambda leaf: leaf[None], result)
        return aggregate.clip_and_sum(row, rule, keep[None])[0]

    return jax.vmap(clipped)(mask, _apart.mapped(function, *batch))


def _applied(function: Callable[..., Any], params: Params, *example: Any) -> ArrayTree:
    return function(params, *example)


def _one(args: tuple[Any, ...]) -> tuple[Any, ...]:
    def row(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(np.shape(leaf)[1:], jnp.result_type(leaf))

    return jax.tree.map(row, args)


def _words(key: KeyLike | None) -> jax.Array | None:
    """Return the words of a key of this kind of release; None for none."""
    if key is None:
        return None
    own = noise.domain_key(noise.key_data(key), "dpjax.release.discrete")
    return jax.random.key_data(own)
