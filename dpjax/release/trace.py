"""The private trace of a Hessian: one Gaussian event, whatever the number of probes."""

import dataclasses
import functools
import math
from typing import Any

import jax

from dpjax import _check, noise
from dpjax.curvature import along_lines, means, vectors
from dpjax.curvature.sources import Private
from dpjax.release import core
from dpjax.release.result import Release
from dpjax.types import ArrayTree, KeyLike, LossFn, Params

PROBES = "dpjax.release.trace.probes"
"""Names the stream of the probes, which are public; the noise has another."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "stderr", "per_probe"],
    meta_fields=["event"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class TraceRelease(Release):
    """A private trace.

    Attributes:
      per_probe: `(num_probes,)`, the private estimates whose mean is `value`. Their
        spread has the noise in it and the chance of the probes, so that
        `per_probe.std(ddof=1) / sqrt(num_probes)` is the standard error of both.
    """

    per_probe: jax.Array


def private_trace(
    loss_fn: LossFn,
    params: Params,
    batch: Private,
    *,
    l2_norm_clip: float | jax.Array,
    noise_multiplier: float,
    num_probes: int = 16,
    key: KeyLike | None = None,
    expected_batch_size: float | jax.Array | None = None,
    sampling_prob: float | None = None,
    mask: jax.Array | None = None,
    microbatch_size: int | None = None,
) -> TraceRelease:
    """Release the trace of the Hessian of the mean loss, with noise.

    With m public Rademacher probes v_j, each example gives the m numbers
    q_i = (v_j^T H_i v_j)_j, whose expectation is tr H_i (Hutchinson 1990). They are
    clipped together, ‖q_i‖ <= C, added up, noised and divided by a public N, and the
    mean over the probes is returned. Its noise has the standard deviation
    noise_multiplier · C / (sqrt(m) N); that of the probes comes on top.

    One example's ‖q_i‖ is about sqrt(m) |tr H_i|: let `l2_norm_clip` grow with sqrt(m).
    The noise is then the same for all m, and only the chance of the probes shrinks.

    Args:
      loss_fn: `loss_fn(params, *example) -> scalar`, of ONE example.
      params: public parameters, as released by private training.
      batch: `Private(batch)`, the arguments of the loss after the parameters.
      l2_norm_clip: clip norm C > 0 of an example's m numbers. Public.
      noise_multiplier: noise standard deviation over C, >= 0, static.
      num_probes: m, at least 1. Time grows with it, the price does not.
      key: as in `private_mean`; it draws noise and probes, apart from each other.
      expected_batch_size: as in `private_mean`: the public divisor N.
      sampling_prob: as in `private_mean`.
      mask: booleans `(batch,)`; `False` marks padding.
      microbatch_size: examples worked on at a time, to save memory.

    Returns:
      A `TraceRelease`; `.value` is a scalar.

    Guarantee:
      Under add-or-remove-one, with settings, `params` and probes public, the clipped
      sum has L2 sensitivity C, and the result is ONE Gaussian mechanism, `.event`,
      however many probes. An example with a NaN or Inf contributes zero. Noise is
      shared neither with training nor with other kinds of release under the same key.

    Raises:
      ValueError: settings out of range, a loss that is not a scalar, or no
        `expected_batch_size` where it is needed.
      TypeError: a batch that is not `Private`, a loss or parameters that are not
        floating-point, `key=None` under a trace.

    References:
      Hutchinson 1990, A stochastic estimator of the trace of the influence matrix.
      Abadi et al. 2016, Deep Learning with Differential Privacy, arXiv 1607.00133.

    >>> import jax.numpy as jnp
    >>> x = Private(jnp.ones((100, 3)))
    >>> released = private_trace(lambda w, x: jnp.sum((w * x) ** 2) / 2, jnp.zeros(3),
    ...     x, l2_norm_clip=12.0, noise_multiplier=2.0, num_probes=16, key=0)
    >>> released.per_probe.shape, round(float(released.stderr), 3)
    ((16,), 0.06)
    """
    _check.integer("num_probes", num_probes, minimum=1)
    _check.real_leaves("params", params)
    params, words = means.widened(params), noise.key_data(key)
    space = vectors.space_of(params)
    probes = _probes(space, num_probes, noise.domain_key(words, PROBES))
    loss = means.as_operand(loss_fn)
    forms = jax.tree_util.Partial(_quadratic_forms, loss, params, probes)
    released = core.release(
        functools.partial(core.clipped_rows, forms, microbatch_size=microbatch_size),
        batch,
        domain="trace",
        l2_norm_clip=l2_norm_clip,
        noise_multiplier=noise_multiplier,
        key=words,
        expected_batch_size=expected_batch_size,
        sampling_prob=sampling_prob,
        mask=mask,
    )
    stderr = released.stderr / math.sqrt(num_probes)
    per_probe = released.value
    return TraceRelease(per_probe.mean(), stderr, released.event, per_probe)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _probes(space: vectors.Space, num_probes: int, key: jax.Array) -> ArrayTree:
    """Return random signs, leaves (num_probes, ...)."""
    draw = functools.partial(vectors.signs, space)
    return jax.vmap(draw)(jax.random.split(key, num_probes))


def _quadratic_forms(
    loss_fn: LossFn, params: Params, probes: ArrayTree, *example: Any
) -> jax.Array:
    """Return v_j^T H v_j of one example's Hessian, (num_probes,)."""

    def loss(params: Params) -> jax.Array:
        return means.wide_loss(loss_fn, params, *example)

    curvature = functools.partial(along_lines.second_derivative, loss, params)
    return jax.lax.map(curvature, probes)
