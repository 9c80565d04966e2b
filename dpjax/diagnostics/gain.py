"""What one noisy step is expected to do to the loss."""

import dataclasses
import functools
from typing import Any

import dp_accounting
import jax
import jax.numpy as jnp

from dpjax import _check
from dpjax.clipping import ClippedGrads
from dpjax.curvature import along_lines, means, vectors
from dpjax.curvature.sources import Source, raw_event
from dpjax.diagnostics import exact
from dpjax.types import LossFn, Params


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["loss_change", "noise_cost", "best_learning_rate"],
    meta_fields=["event"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class StepGain:
    """The second-order forecast of one noisy step.

    Attributes:
      loss_change: scalar, expected change of the mean loss; negative is progress.
      noise_cost: scalar, the part of it that the noise of privacy adds.
      best_learning_rate: scalar, where `loss_change` is least. Negative where the
        clipped gradient points uphill; infinite where the curvature along the step and
        of the noise is not positive, so that the forecast has no least value.
      event: what this look at the batch costs; that of `trace` is apart.
    """

    loss_change: jax.Array
    noise_cost: jax.Array
    best_learning_rate: jax.Array
    event: dp_accounting.DpEvent


def step_gain(
    loss_fn: LossFn,
    params: Params,
    batch: Source,
    grads: ClippedGrads,
    *,
    noise_multiplier: float | jax.Array,
    learning_rate: float | jax.Array,
    trace: float | jax.Array,
    expected_batch_size: float | jax.Array | None = None,
    mask: jax.Array | None = None,
) -> StepGain:
    """Forecast what a step of DP-SGD does to the loss of this batch, on average.

    With the gradient g and the Hessian H of the mean loss, the clipped sum over the
    divisor d, and noise of standard deviation s = noise_multiplier · sensitivity /
    divisor in each entry, a step of learning rate eta changes the loss by

        -eta g·d + eta² (d·H d + s² tr H) / 2

    on average, to second order: exactly for a quadratic loss. The noise adds
    eta² s² tr(H) / 2, and the best learning rate is g·d / (d·H d + s² tr H).

    Costs one gradient and one Hessian-vector product of the batch.

    Args:
      loss_fn: `loss_fn(params, *example) -> scalar`, the loss of ONE example.
      params: where the gradients were taken.
      batch: `Public((x, y))` or `Private((x, y))`.
      grads: what `clipped_grad(loss_fn, l2_norm_clip)(params, x, y)` returned.
      noise_multiplier: noise standard deviation over the sensitivity, >= 0.
      learning_rate: eta, of plain SGD, >= 0.
      trace: tr H, as estimated by `curvature.trace` or `release.private_trace`; spend
        its event where it is taken.
      expected_batch_size: the public divisor; `None` is the static length of the batch.
        Needed with a mask.
      mask: booleans `(batch,)`, `False` for padding, as given to `clipped_grad`.

    Returns:
      A `StepGain`. Examples with a gradient that is not finite are left out.

    Raises:
      TypeError: a batch that does not say whether it is private, no `ClippedGrads`,
        parameters that are not real floating-point numbers.
      ValueError: settings out of range; a batch, a mask or gradients of other shapes.

    References:
      Bu et al. 2024, Pre-training differentially private models with limited public
      data, arXiv 2402.18752.

    >>> from dpjax import clipped_grad
    >>> from dpjax.curvature import Public
    >>> def loss_fn(w, x):
    ...     return jnp.sum((w - x) ** 2) / 2
    >>> w, x = jnp.array([2.0, 0.0]), jnp.zeros((4, 2))
    >>> grads = clipped_grad(loss_fn, 1.0)(w, x)
    >>> gain = step_gain(loss_fn, w, Public(x), grads, noise_multiplier=2.0,
    ...                  learning_rate=0.5, trace=2.0)
    >>> print(round(float(gain.loss_change), 4), gain.noise_cost)
    -0.8125 0.0625
    """
    _check.real_leaves("params", params)
    multiplier = _setting("noise_multiplier", noise_multiplier)
    rate, trace = _setting("learning_rate", learning_rate), jnp.asarray(trace)
    shown = exact.examples(batch, grads, mask)
    divisor = _divisor(grads, expected_batch_size)
    clipped = jax.tree.map(lambda total: total / divisor, grads.sum)
    slope, bend = _along(
        means.as_operand(loss_fn), params, shown.args, shown.kept, clipped
    )
    noise = jnp.square(multiplier * grads.sensitivity / divisor) * trace
    curvature = bend + noise
    positive = curvature > 0
    best = slope / jnp.where(positive, curvature, 1)
    return StepGain(
        -rate * slope + jnp.square(rate) * curvature / 2,
        jnp.square(rate) * noise / 2,
        jnp.where(positive, best, jnp.inf),
        raw_event(batch),
    )


@means.exact_jit
def _along(
    loss_fn: LossFn,
    params: Params,
    args: tuple[Any, ...],
    kept: jax.Array,
    direction: Params,
) -> tuple[jax.Array, jax.Array]:
    """Return slope and curvature of the mean loss along a direction: g·d and d·H d."""
    point, direction = means.in_one_precision(params, direction)

    def loss(params: Params) -> jax.Array:
        return exact.mean_loss(loss_fn, params, args, kept)

    gradient = exact.mean_gradient(loss_fn, point, args, kept)
    bent = along_lines.second_derivative(loss, point, direction)
    return vectors.dot(gradient, direction), bent


def _setting(name: str, value: float | jax.Array) -> float | jax.Array:
    return value if _check.is_traced(value) else _check.non_negative(name, value)


def _divisor(
    grads: ClippedGrads, expected_batch_size: float | jax.Array | None
) -> float | jax.Array:
    if expected_batch_size is not None:
        if _check.is_traced(expected_batch_size):
            return expected_batch_size
        return _check.positive("expected_batch_size", expected_batch_size)
    if grads.batch_size is None:
        what = "expected_batch_size, the public divisor, with a mask"
        _check.fail(what, "expected_batch_size", None)
    return grads.batch_size
