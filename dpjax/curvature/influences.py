"""What each training example contributes to the loss on a test set."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import dp_accounting
import jax
import jax.numpy as jnp

from dpjax import _check
from dpjax.curvature import means
from dpjax.curvature.inverse import inverse_hvp
from dpjax.curvature.readings import joint_event
from dpjax.curvature.sources import Source, arguments, raw_event
from dpjax.types import ArrayTree, LossFn, Params


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "residual"],
    meta_fields=["event"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Influence:
    """The influence of every training example, and the quality of the solution.

    Attributes:
      value: `(train examples,)`.
      residual: that of the system of equations behind it, see `Solution`.
      event: what looking at the operator, the training and the test examples costs.
    """

    value: jax.Array
    residual: jax.Array
    event: dp_accounting.DpEvent | None


def influence(
    matvec: Callable[[ArrayTree], ArrayTree],
    loss_fn: LossFn,
    params: Params,
    train: Source,
    test: Source,
    *,
    damping: float | jax.Array,
    tolerance: float = 1e-5,
    max_steps: int = 100,
) -> Influence:
    """Return g_test . (A + damping I)^-1 g_i for each training example i.

    g_test is the gradient of the mean loss of the test set, g_i that of one training
    example, A the curvature of the mean training loss. To first order, training without
    example i raises the mean test loss by value_i / N, N the number of training
    examples: positive values are examples that help. One system of equations is solved,
    and no per-example gradient is formed.

    Args:
      matvec: A, best a `ggn_operator` on the training examples.
      loss_fn: `loss_fn(params, *example) -> scalar`, the loss of ONE example.
      params: trained parameters.
      train: `Public((x, y))` or `Private((x, y))`: whose influence is asked.
      test: `Public` or `Private`: the examples on whose mean loss it is asked.
      damping: see `inverse_hvp`, as `tolerance` and `max_steps`.
      tolerance: see `inverse_hvp`.
      max_steps: see `inverse_hvp`.

    Returns:
      `.value`, with the `.residual` of the solution, and the `.event` of all three.

    Raises:
      TypeError, ValueError: as for `hessian_operator` and `inverse_hvp`.

    References:
      Koh and Liang 2017, arXiv 1703.04730, equation 2, with the opposite sign.

    >>> import jax.numpy as jnp
    >>> from dpjax.curvature import Public
    >>> train, test = Public(jnp.array([1., -1.])), Public(jnp.array([3.]))
    >>> found = influence(
    ...     lambda v: v, lambda w, x: (w - x) ** 2 / 2, jnp.zeros(()), train, test,
    ...     damping=0.0,
    ... )
    >>> print(found.value)
    [ 3. -3.]
    """
    _check.real_leaves("params", params)
    point, function = means.widened(params), means.as_operand(loss_fn)
    solution = inverse_hvp(
        matvec,
        _gradient(function, point, arguments(test)),
        damping=damping,
        tolerance=tolerance,
        max_steps=max_steps,
    )
    value = _slopes(function, point, arguments(train), solution.value)
    event = joint_event([solution.event, raw_event(train), raw_event(test)])
    return Influence(value, solution.residual, event)


@means.exact_jit
def _gradient(loss_fn: LossFn, params: Params, batch: tuple[Any, ...]) -> ArrayTree:
    def mean_loss(params: Params) -> jax.Array:
        return jnp.mean(means.losses(functools.partial(loss_fn, params), *batch))

    return jax.grad(mean_loss)(params)


@means.exact_jit
def _slopes(
    loss_fn: LossFn, params: Params, batch: tuple[Any, ...], vector: ArrayTree
) -> jax.Array:
    def losses(params: Params) -> jax.Array:
        return means.losses(functools.partial(loss_fn, params), *batch)

    return jax.jvp(losses, (params,), (vector,))[1]
