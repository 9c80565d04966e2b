"""Clipped sums of examples that are rounded to a grid, each by itself."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpjax import _apart, _check, clipping
from dpjax.clipping.arguments import as_mask
from dpjax.clipping.microbatch import in_microbatches
from dpjax.optimizers.grid import checked_granularity
from dpjax.types import ArrayTree, LossFn, Params

_ENGINES = ("auto", "vmap")


def rounded_grad(
    loss_fn: LossFn,
    l2_norm_clip: Any,
    granularity: float,
    *,
    keep_batch_dim: bool = False,
    has_aux: bool = False,
    prng_argnum: int | None = None,
    microbatch_size: int | None = None,
    engine: str = "auto",
) -> Callable[..., clipping.ClippedGrads]:
    """Return `clipping.clipped_grad`, but of examples that are on a grid.

    Each clipped gradient is rounded to the nearest multiples of g, then all are summed.

    Args:
      loss_fn: `loss_fn(params, *example) -> scalar`, the loss of ONE example.
      l2_norm_clip: clip norm, prefix pytree of such, or a rule, as in `clipped_grad`.
      granularity: g, a power of two.
      keep_batch_dim: as in `clipped_grad`, as are the next.
      has_aux: whether `loss_fn` returns `(loss, aux)`.
      prng_argnum: position of a PRNG key; each example gets its own.
      microbatch_size: examples whose gradients are formed at a time.
      engine: "auto" or "vmap", the engine whose clip norms are proven: only it is used.

    Returns:
      `fn(params, *batch, mask=None) -> ClippedGrads`. `.sensitivity` is that of the
      clip; rounding adds to it what `discrete_aggregate(..., rounding="examples")`
      counts.

    Guarantee:
      One example moves the sum by its own rounded gradient, whatever the others are:
      sums of at most 2^24 steps are exact in float32, in any order and in any pieces.
      That gradient is a function of the example, and of its place, in one compiled
      program. One of other shapes (pieces, devices) may have it an ulp off, and so on
      the next step of the grid: neighbours are to be of one shape, each example at one
      place, as those of `DPDiscreteSGD` are.
      Batches are to be that small, as those of `DPDiscreteSGD` are: n examples are,
      where n (C / g + 1/2) <= 2^24.

    Raises:
      ValueError: a granularity that is no power of two, another engine.

    >>> fn = rounded_grad(lambda w, x: jnp.vdot(w, x), 1.0, 0.25)
    >>> [float(g) for g in fn(jnp.zeros(2), jnp.array([[3., 4.], [0., .4]])).sum]
    [0.5, 1.25]
    """
    step = checked_granularity(granularity)
    _check.choice("engine", engine, _ENGINES)
    if prng_argnum is not None:
        _check.integer("prng_argnum", prng_argnum, minimum=1)
    rule = clipping.rules.as_rule(l2_norm_clip)
    one = clipping.clipped_grad(
        loss_fn,
        rule,
        keep_batch_dim=keep_batch_dim,
        has_aux=has_aux,
        prng_argnum=prng_argnum,
        engine="vmap",
    )
    if microbatch_size is not None:
        _check.integer("microbatch_size", microbatch_size, minimum=1)

    @jax.jit
    def run(
        params: Params, batch: Any, mask: jax.Array | None
    ) -> clipping.ClippedGrads:
        alone = functools.partial(_alone, one, params, prng_argnum, step)
        return _summed(alone, batch, mask, microbatch_size, rule.sensitivity)

    @functools.wraps(loss_fn)
    def fn(
        params: Params, *args: Any, mask: jax.Array | None = None
    ) -> clipping.ClippedGrads:
        examples, key = list(args), None
        if prng_argnum is not None:
            key = examples.pop(prng_argnum - 1)
        size = _check.leading_axis("batch", examples)
        return run(params, (tuple(examples), _own_keys(key, size)), as_mask(mask, size))

    return fn


def _alone(
    one: Callable[..., clipping.ClippedGrads],
    params: Params,
    prng_argnum: int | None,
    step: float,
    example: tuple[ArrayTree, Any],
    keep: jax.Array | None,
) -> clipping.ClippedGrads:
    """Return the rounded gradient of one example as a clipped sum."""
    arguments, key = example
    batch: list[Any] = jax.tree.map(lambda leaf: leaf[None], list(arguments))
    if prng_argnum is not None:
        batch.insert(prng_argnum - 1, key)
    grads = one(params, *batch, mask=None if keep is None else keep[None])
    rounded = jax.tree.map(lambda leaf: jnp.round(leaf / step) * step, grads.sum)
    per_example = jax.tree.map(lambda leaf: leaf[0], grads.per_example)
    return clipping.ClippedGrads(rounded, per_example, grads.sensitivity, None)


def _summed(
    alone: Callable[..., clipping.ClippedGrads],
    batch: Any,
    mask: jax.Array | None,
    microbatch_size: int | None,
    sensitivity: float | jax.Array,
) -> clipping.ClippedGrads:
    """Return the sum of all examples, in pieces."""

    def piece(batch: Any, mask: jax.Array | None) -> Any:
        rows = _apart.mapped(alone, batch, mask, to_the_bit=True)
        return jax.tree.map(lambda leaf: leaf.sum(axis=0), rows.sum), rows.per_example

    total, per_example = in_microbatches(piece, batch, mask, microbatch_size)
    size = _check.leading_axis("batch", batch) if mask is None else None
    return clipping.ClippedGrads(total, per_example, sensitivity, size)


def _own_keys(key: Any, size: int) -> Any:
    if key is None:
        return None
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(size))
