"""Second derivatives along a line, forward only.

The second derivative of f(x + t v) at t = 0 is v.Hv. A product with the Hessian goes
back through the function once more, and gives the derivative of each parameter, that a
number has no use for: where H v has six products with a weight that depend on v, v.Hv
has four, and nothing is kept for the way back.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend import core

from dpjax import _equations
from dpjax.curvature import vectors
from dpjax.types import ArrayTree


def second_derivative(
    function: Callable[[ArrayTree], jax.Array], point: ArrayTree, direction: ArrayTree
) -> jax.Array:
    """Return d^2/dt^2 function(point + t direction) at t = 0.

    A function with a `jax.custom_vjp` has derivatives that can only be gone back
    through: it is then taken from the product with the Hessian.

    Args:
      function: `function(point) -> scalar`, traced.
      point: pytree of floating-point arrays.
      direction: pytree with the shapes and types of the point.

    Returns:
      A scalar; NaN where the function is not finite.
    """
    closed = jax.make_jaxpr(function)(point)

    def value(point: ArrayTree) -> jax.Array:
        (result,) = core.jaxpr_as_fun(closed)(*jax.tree.leaves(point))
        return result

    def forward(function: Callable[[ArrayTree], ArrayTree]) -> Callable:
        return lambda point: jax.jvp(function, (point,), (direction,))

    if _goes_back_only(closed.jaxpr):
        product = forward(jax.grad(value))(point)[1]
        return vectors.dot(direction, product)
    (found, _), (_, second) = forward(forward(value))(point)
    return jnp.where(jnp.isfinite(found), second, jnp.nan)


def _goes_back_only(jaxpr: core.Jaxpr) -> bool:
    """Whether a derivative is known in reverse alone, here or in what is called."""
    return any(
        eqn.primitive.name.startswith("custom_vjp_call")
        or any(map(_goes_back_only, _equations.jaxprs_in(eqn)))
        for eqn in jaxpr.eqns
    )
