"""A private Hessian-vector product."""

import functools
from typing import Any

import jax

from dpjax import _check, clipping
from dpjax.clipping import rules
from dpjax.curvature import means
from dpjax.curvature.sources import Private
from dpjax.release import core
from dpjax.release.result import Release
from dpjax.types import ArrayTree, KeyLike, LossFn, Params


def private_hvp(
    loss_fn: LossFn,
    params: Params,
    batch: Private,
    vector: ArrayTree,
    *,
    l2_norm_clip: Any,
    noise_multiplier: float,
    key: KeyLike | None = None,
    expected_batch_size: float | jax.Array | None = None,
    sampling_prob: float | None = None,
    mask: jax.Array | None = None,
    microbatch_size: int | None = None,
) -> Release:
    """Release the Hessian of the mean loss times a vector, with noise.

    Each H_i v is clipped, added up, noised and divided by a public number. It is the
    gradient in the parameters of the slope <grad loss_i, v>, so that `clipped_grad` of
    that slope is all there is to it: where the fast engine knows the loss, no H_i v is
    formed for an example.

    A private power iteration of k steps is k releases, each with a key of its own and
    an event to spend (the noisy power method). H_i v grows with `vector`: scale it to
    norm one, so that one clip norm fits all steps.

    Args:
      loss_fn: `loss_fn(params, *example) -> scalar`, of ONE example. It is
        differentiated in forward mode first, which a `custom_vjp` does not allow.
      params: public parameters, as released by private training.
      batch: `Private(batch)`, the arguments of the loss after the parameters.
      vector: public, shaped like `params`.
      l2_norm_clip: clip norm > 0 of an example's H_i v, a prefix pytree of such, or a
        clipping rule. Public.
      noise_multiplier: noise standard deviation over the sensitivity, >= 0, static.
      key: as in `private_mean`.
      expected_batch_size: as in `private_mean`: the public divisor.
      sampling_prob: as in `private_mean`.
      mask: booleans `(batch,)`; `False` marks padding.
      microbatch_size: examples worked on at a time, to save memory.

    Returns:
      A `Release`; `.value` is shaped like `params`, float32 at least.

    Guarantee:
      Under add-or-remove-one, with settings, `params` and `vector` public, the clipped
      sum has the sensitivity that `clipped_grad` states, and the result is one Gaussian
      mechanism, `.event`. An example with a NaN or Inf contributes zero. Noise is
      shared neither with training nor with other kinds of release under the same key.

    Raises:
      ValueError: settings out of range, a loss that is not a scalar, a vector of other
        shapes than `params`, or no `expected_batch_size` where it is needed.
      TypeError: a batch that is not `Private`, a loss or parameters that are not
        floating-point, `key=None` under a trace.

    References:
      Pearlmutter 1994, Fast exact multiplication by the Hessian.
      Hardt and Price 2014, The noisy power method, arXiv 1311.2495.

    >>> import jax.numpy as jnp
    >>> x = Private(jnp.ones((100, 3)))
    >>> released = private_hvp(lambda w, x: jnp.sum((w * x) ** 2) / 2, jnp.zeros(3), x,
    ...     jnp.array([1.0, 0.0, 0.0]), l2_norm_clip=1.0, noise_multiplier=2.0, key=0)
    >>> released.value.shape, round(float(released.stderr), 3)
    ((3,), 0.02)
    """
    _check.real_leaves("params", params)
    point, direction = means.in_one_precision(params, vector)
    loss = means.as_operand(loss_fn)
    return core.release(
        functools.partial(
            _clipped, loss, point, direction, microbatch_size=microbatch_size
        ),
        batch,
        domain="hvp",
        l2_norm_clip=l2_norm_clip,
        noise_multiplier=noise_multiplier,
        key=key,
        expected_batch_size=expected_batch_size,
        sampling_prob=sampling_prob,
        mask=mask,
    )


@functools.partial(jax.jit, static_argnames="microbatch_size")
def _clipped(
    loss_fn: jax.tree_util.Partial,
    params: Params,
    vector: ArrayTree,
    batch: tuple[ArrayTree, ...],
    mask: jax.Array | None,
    rule: rules.ClippingRule,
    *,
    microbatch_size: int | None,
) -> clipping.ClippedGrads:
    """Clip each example's H_i v and add them up."""

    def slope(params: Params, vector: ArrayTree, *example: Any) -> jax.Array:
        def loss(params: Params) -> Any:
            return loss_fn(params, *example)

        return jax.jvp(loss, (params,), (vector,))[1]

    fn = clipping.clipped_grad(
        slope,
        rule,
        batch_argnums=range(2, 2 + len(batch)),
        microbatch_size=microbatch_size,
    )
    return fn(params, vector, *batch, mask=mask).without_per_example()
