"""The one way out for private data: clip, sum, noise, divide by a public number.

Nothing here clips or draws noise: that is done by `clipping` and by the private step of
`optimizers`, as in training. What differs from training is the function that is applied
to each example, and the domain that the noise is drawn from.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import dp_accounting
import jax
import jax.numpy as jnp

from dpjax import _apart, _check, _meshes, clipping, noise, optimizers
from dpjax.clipping import aggregate, arguments, microbatch, rules
from dpjax.curvature.sources import Private
from dpjax.optimizers import settings
from dpjax.release.result import Release
from dpjax.types import ArrayTree, KeyLike


def examples(batch: Private) -> tuple[Any, ...]:
    """Return the batch as the arguments of a function of one example.

    A batch of no example is legal: what is released of it is noise.

    Raises:
      TypeError: the batch is not `Private`.
      ValueError: there is no array, or the leading axes differ.
    """
    if not isinstance(batch, Private):
        what = "Private(batch) (of public data, take the exact number, without noise)"
        _check.fail(what, "type(batch)", type(batch).__name__, TypeError)
    _check.leading_axis("batch", batch.batch)
    return batch.batch if isinstance(batch.batch, tuple) else (batch.batch,)


@functools.partial(jax.jit, static_argnames="microbatch_size")
def clipped_rows(
    function: jax.tree_util.Partial,
    batch: tuple[ArrayTree, ...],
    mask: jax.Array | None,
    rule: rules.ClippingRule,
    *,
    microbatch_size: int | None = None,
) -> clipping.ClippedGrads:
    """Clip `function(*example)`, a pytree, example by example, and add up."""
    if microbatch_size is not None:
        _check.integer("microbatch_size", microbatch_size, minimum=1)

    def summed(function: Any, batch: Any, mask: Any, rule: Any) -> ArrayTree:
        def piece(batch: Any, mask: Any) -> tuple[ArrayTree, clipping.PerExample]:
            rows = _apart.mapped(function, *batch)
            _check.float_leaves("function(params, *example)", rows)
            total, norm, _ = aggregate.clip_and_sum(rows, rule, mask)
            return total, clipping.PerExample(None, norm)

        return microbatch.in_microbatches(piece, batch, mask, microbatch_size)[0]

    total = _meshes.left_to_compiler(summed, jax.P(), function, batch, mask, rule)
    size = _check.leading_axis("batch", batch) if mask is None else None
    return clipping.ClippedGrads(total, None, rule.sensitivity, size)


def release(
    clipped: Callable[..., clipping.ClippedGrads],
    batch: Private,
    *,
    domain: str,
    l2_norm_clip: Any,
    noise_multiplier: float,
    key: KeyLike | None,
    expected_batch_size: float | jax.Array | None,
    sampling_prob: float | None,
    mask: jax.Array | None,
) -> Release:
    """Add noise to a clipped sum and divide it: one step of private training.

    Args:
      clipped: `clipped(batch, mask, rule)`, the clipped sum over the examples.
      batch: the private examples.
      domain: what is released; noise of two domains is independent.
      l2_norm_clip: as for the optimizers, like the settings after it.
      noise_multiplier: static, and so is `sampling_prob`: they make the event.
      key: as for the optimizers.
      expected_batch_size: the public divisor.
      sampling_prob: with which Poisson sampling put each example into the batch.
      mask: booleans (batch,); `False` marks padding.
    """
    event = _event(noise_multiplier, sampling_prob)
    checked = settings.checked(
        l2_norm_clip, noise_multiplier, expected_batch_size, sampling_prob, max_copies=1
    )
    own = noise.domain_key(noise.key_data(key), f"dpjax.release.{domain}")
    args = examples(batch)
    mask = arguments.as_mask(mask, _check.leading_axis("batch", args))
    grads = clipped(args, mask, checked.rule)
    divisor = expected_batch_size
    if divisor is None and grads.batch_size:
        # An array, so that another batch size does not compile the noise anew.
        divisor, grads = grads.batch_size, dataclasses.replace(grads, batch_size=None)
    value = _noised(grads, own, checked._replace(expected_batch_size=divisor))
    assert divisor is not None  # The private step has refused it.
    stderr = jnp.asarray(noise_multiplier * grads.sensitivity) / divisor
    if not _check.is_traced(stderr) and not jnp.isfinite(stderr):
        what = "a divisor that keeps the noise within what floats hold"
        _check.fail(what, "expected_batch_size", divisor)
    return Release(value, stderr, event)


@jax.jit
def _noised(
    grads: clipping.ClippedGrads, key: jax.Array, checked: settings.Settings
) -> ArrayTree:
    """Take the first step of private training, of which only the update is kept."""
    private = optimizers.differentially_private_aggregate(
        checked.rule,
        checked.noise_multiplier,
        key,
        expected_batch_size=checked.expected_batch_size,
        sampling_prob=checked.sampling_prob,
    )
    return private.update(grads, private.init(grads.sum))[0]


def _event(
    noise_multiplier: float, sampling_prob: float | None
) -> dp_accounting.DpEvent:
    multiplier = _check.non_negative("noise_multiplier", noise_multiplier)
    gaussian = dp_accounting.GaussianDpEvent(multiplier)
    if sampling_prob is None:
        return gaussian
    rate = _check.probability("sampling_prob", sampling_prob)
    return dp_accounting.PoissonSampledDpEvent(rate, gaussian)
