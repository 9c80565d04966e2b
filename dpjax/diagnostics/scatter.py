"""How much the gradients of examples differ: the gradient noise of sampling."""

import dataclasses
import functools

import dp_accounting
import jax
import jax.numpy as jnp

from dpjax import _check
from dpjax.clipping import ClippedGrads
from dpjax.curvature import means
from dpjax.curvature.sources import Source, raw_event
from dpjax.diagnostics import exact, step
from dpjax.types import LossFn, Params


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["covariance_trace", "squared_gradient"],
    meta_fields=["event"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class GradientNoise:
    """Two unbiased estimates, whose ratio is the gradient noise scale.

    The ratio is left to the caller: it is biased, and near the end of training its
    denominator may be near zero or negative. Average the two numbers over steps first.

    Attributes:
      covariance_trace: scalar, tr(Sigma), of one example's gradient.
      squared_gradient: scalar, the squared length of the gradient of the population;
        may be negative.
      event: what this look at the batch costs.
    """

    covariance_trace: jax.Array
    squared_gradient: jax.Array
    event: dp_accounting.DpEvent


def gradient_noise(
    loss_fn: LossFn,
    params: Params,
    batch: Source,
    grads: ClippedGrads,
    *,
    mask: jax.Array | None = None,
) -> GradientNoise:
    """Estimate the scatter of examples' gradients, and the length of their mean.

    With B examples, gradients g_i and their mean g: tr(Sigma) is estimated by
    (Σ ‖g_i‖² - B ‖g‖²) / (B - 1), and ‖E g‖² by ‖g‖² - tr(Sigma) / B. Both are unbiased
    for examples drawn independently (McCandlish et al. 2018, appendix A.1).

    Costs one ordinary gradient of the batch: the norms are in `grads`, so that no
    per-example gradient is formed. Nothing here is clipped.

    Args:
      loss_fn: `loss_fn(params, *example) -> scalar`, the loss of ONE example.
      params: where the gradients were taken.
      batch: `Public((x, y))` or `Private((x, y))`.
      grads: what `clipped_grad(loss_fn, l2_norm_clip)(params, x, y)` returned.
      mask: booleans `(batch,)`, `False` for padding, as given to `clipped_grad`.

    Returns:
      A `GradientNoise`; NaN with fewer than two examples. Examples with a gradient that
      is not finite are left out.

    Raises:
      TypeError: a batch that does not say whether it is private, no `ClippedGrads`,
        parameters that are not real floating-point numbers.
      ValueError: a batch, a mask or gradients of other shapes.

    References:
      McCandlish et al. 2018, An empirical model of large-batch training, arXiv
      1812.06162.

    >>> from dpjax import clipped_grad
    >>> from dpjax.curvature import Public
    >>> x = jnp.array([[3.0, 0.0], [1.0, 0.0]])
    >>> grads = clipped_grad(jnp.vdot, 1.0)(jnp.zeros(2), x)
    >>> noise = gradient_noise(jnp.vdot, jnp.zeros(2), Public(x), grads)
    >>> print(noise.covariance_trace, noise.squared_gradient)
    2.0 3.0
    """
    _check.real_leaves("params", params)
    shown = exact.examples(batch, grads, mask)
    loss = means.as_operand(loss_fn)
    mean = exact.mean_gradient(loss, params, shown.args, shown.kept)
    squared_mean = jnp.square(step.length(mean))
    squares = jnp.sum(jnp.square(jnp.where(shown.kept, shown.norm, 0)))
    several = shown.number > 1
    others = jnp.where(several, shown.number - 1, jnp.nan)
    covariance = (squares - shown.number * squared_mean) / others
    return GradientNoise(
        covariance, squared_mean - covariance / shown.number, raw_event(batch)
    )
