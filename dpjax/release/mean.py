"""The private mean of any function of one example."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from dpjax.curvature import means
from dpjax.curvature.sources import Private
from dpjax.release import core
from dpjax.release.result import Release
from dpjax.types import ArrayTree, KeyLike, Params


def private_mean(
    function: Callable[..., ArrayTree],
    params: Params,
    batch: Private,
    *,
    l2_norm_clip: Any,
    noise_multiplier: float,
    key: KeyLike | None = None,
    expected_batch_size: float | jax.Array | None = None,
    sampling_prob: float | None = None,
    mask: jax.Array | None = None,
    microbatch_size: int | None = None,
) -> Release:
    """Release the mean of a function of one example, with noise.

    The value is (Σ clip(f(params, x_i)) + noise_multiplier · sensitivity · N(0, I)) / N
    with a public N: the step of DP-SGD (Abadi et al. 2016), of another function than
    the gradient.

    | batch                               | value                               |
    | ----------------------------------- | ----------------------------------- |
    | an example whose f is NaN or Inf    | contributes zero                    |
    | all masked, or of length 0          | pure noise (`expected_batch_size`)  |

    Args:
      function: `function(params, *example)`, a floating-point pytree. A new function
        compiles anew, new `params` do not.
      params: anything that is public, or was released before; `None` where `function`
        needs nothing.
      batch: `Private(batch)`, leading axis the examples; a tuple is spread over several
        arguments.
      l2_norm_clip: clip norm > 0 of the whole pytree, a prefix pytree of such, or a
        clipping rule. Public.
      noise_multiplier: noise standard deviation over the sensitivity, >= 0, static.
      key: PRNG key, key data or an integer seed. The same call with the same key
        repeats its noise, and so does one of another function or on another batch: the
        difference of the two would be without noise. Give every release its own.
        `None` draws it from the operating system, and is refused under a trace.
      expected_batch_size: the public divisor N. `None` declares a fixed batch and
        divides by its static length. Needed with `sampling_prob` or a mask.
      sampling_prob: probability in (0, 1], static, with which Poisson sampling put each
        example into the batch; `None`: nothing is amplified.
      mask: booleans `(batch,)`; `False` marks padding.
      microbatch_size: examples worked on at a time, to save memory.

    Returns:
      A `Release`; `.value` has the structure of one example's result.

    Guarantee:
      Under add-or-remove-one, with all settings and `params` public, the clipped sum
      has L2 sensitivity `l2_norm_clip` (root of the sum of squares, of several), and
      the result is one Gaussian mechanism, `.event`. Noise is shared neither with
      training nor with other kinds of release under the same key.

    Raises:
      ValueError: settings out of range, or no `expected_batch_size` where it is needed.
      TypeError: a batch that is not `Private`, results that are not floating-point,
        `key=None` under a trace.

    References:
      Abadi et al. 2016, Deep Learning with Differential Privacy, arXiv 1607.00133.

    >>> import jax.numpy as jnp
    >>> heights = Private(jnp.array([1.6, 1.8, 1.7, 1.9]))
    >>> released = private_mean(lambda _, x: x, None, heights, l2_norm_clip=2.0,
    ...                         noise_multiplier=1.0, key=0)
    >>> float(released.stderr), released.event
    (0.5, GaussianDpEvent(noise_multiplier=1.0))
    """
    rows = jax.tree_util.Partial(_applied, means.as_operand(function), params)
    return core.release(
        functools.partial(core.clipped_rows, rows, microbatch_size=microbatch_size),
        batch,
        domain="mean",
        l2_norm_clip=l2_norm_clip,
        noise_multiplier=noise_multiplier,
        key=key,
        expected_batch_size=expected_batch_size,
        sampling_prob=sampling_prob,
        mask=mask,
    )


def _applied(function: Callable[..., Any], params: Params, *example: Any) -> ArrayTree:
    return function(params, *example)
