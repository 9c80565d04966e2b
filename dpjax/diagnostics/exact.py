"""The batch as it is: the mean loss and its gradient, not clipped, of finite examples.

An example whose gradient is not finite was left out of the clipped sum, so it is left
out here. Zeroing its loss would not do, since 0 times a derivative of NaN is NaN: it is
replaced by an example that is finite, whose loss is then given the weight zero.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpjax import _check
from dpjax.clipping import ClippedGrads
from dpjax.curvature import means
from dpjax.curvature.sources import Source, arguments
from dpjax.diagnostics import step
from dpjax.types import ArrayTree, LossFn, Params


class Examples(NamedTuple):
    """A batch, looked at exactly.

    Attributes:
      args: arguments of the loss after the parameters; all rows are finite, if any is.
      norm: `(batch,)`, norms of the gradients, not clipped.
      kept: `(batch,)`, which rows count.
      number: how many they are, in the type of `norm`.
    """

    args: tuple[ArrayTree, ...]
    norm: jax.Array
    kept: jax.Array
    number: jax.Array


def examples(batch: Source, grads: ClippedGrads, mask: jax.Array | None) -> Examples:
    """Return the examples that the clipped sum was made of.

    Raises:
      ValueError: a batch of another length than the gradients.
      TypeError: a batch that says not whether it is private; no `ClippedGrads`.
    """
    args = arguments(batch)
    norm, kept = step.kept_norms(step.checked(grads), mask)
    size = _check.leading_axis("batch", args)
    if size != len(norm):
        _check.fail(f"the {len(norm)} examples of the gradients", "len(batch)", size)
    rows = jnp.where(kept, jnp.arange(size), jnp.argmax(kept))
    args = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], args)
    return Examples(args, norm, kept, jnp.sum(kept).astype(norm.dtype))


def mean_loss(
    loss_fn: LossFn, params: Params, args: tuple[Any, ...], kept: jax.Array
) -> jax.Array:
    """Return the mean loss of the examples that count, float32 at least."""
    losses = means.losses(jax.tree_util.Partial(loss_fn, params), *args)
    return jnp.sum(jnp.where(kept, losses, 0)) / jnp.sum(kept)


@means.exact_jit
def mean_gradient(
    loss_fn: LossFn, params: Params, args: tuple[Any, ...], kept: jax.Array
) -> Params:
    """Return the gradient of `mean_loss`, at the cost of one ordinary gradient."""
    return jax.grad(mean_loss, argnums=1)(loss_fn, means.widened(params), args, kept)
