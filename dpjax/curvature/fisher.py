"""The empirical Fisher matrix as an operator."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from dpjax.curvature import along_lines, means, vectors
from dpjax.curvature.matvec import MatVec
from dpjax.curvature.sources import Source
from dpjax.types import ArrayTree, LossFn, Params


def fisher_operator(
    loss_fn: LossFn,
    params: Params,
    batch: Source,
    *,
    microbatch_size: int | None = None,
) -> MatVec:
    """Return the EMPIRICAL Fisher matrix of a batch as an operator.

    F v = mean over examples of g_i (g_i . v), with g_i the gradient of one example's
    loss at its own target: the uncentred second moment of per-example gradients. It is
    J^T (J v) / N with J the Jacobian of the vector of losses, so that no per-example
    gradient is formed. It is not the Fisher information, whose targets are drawn from
    the model: that is `true_fisher_operator`.

    Args, Returns, Raises: those of `hessian_operator`.

    References:
      Kunstner, Balles and Hennig 2019, arXiv 1905.12558, equation 3.

    >>> import jax.numpy as jnp
    >>> from dpjax.curvature import Public
    >>> batch = Public(jnp.array([[1., 0.], [0., 2.]]))
    >>> print(fisher_operator(jnp.vdot, jnp.ones(2), batch)(jnp.array([1., 1.])))
    [0.5 2. ]
    """
    return means.mean_operator(
        _empirical, (loss_fn,), params, batch, microbatch_size, _form
    )


def _empirical(
    params: Params,
    vector: ArrayTree,
    weight: float,
    batch: tuple[Any, ...],
    loss_fn: LossFn,
) -> ArrayTree:
    _, push = jax.linearize(_losses(batch, loss_fn), params)
    return jax.linear_transpose(push, params)(weight * push(vector))[0]


def _form(
    params: Params,
    vector: ArrayTree,
    weight: float,
    batch: tuple[Any, ...],
    loss_fn: LossFn,
) -> jax.Array:
    slopes = jax.jvp(_losses(batch, loss_fn), (params,), (vector,))[1]
    form = vectors.dot(slopes, weight * slopes)
    return along_lines.over_devices(form, (params, vector))


def _losses(batch: tuple[Any, ...], loss_fn: LossFn) -> Callable[[Params], jax.Array]:
    def losses(params: Params) -> jax.Array:
        return means.losses(functools.partial(loss_fn, params), *batch)

    return losses
