"""How a gradient, and a function, bend along a line: H v and v.Hv.

The second derivative of f(x + t v) at t = 0 is v.Hv. A product with the Hessian goes
back through the function once more, and gives the derivative of each parameter, that a
number has no use for: where H v has six products with a weight that depend on v, v.Hv
has four, and nothing is kept for the way back.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from dpjax import _equations, _manual
from dpjax.curvature import turned, vectors
from dpjax.types import ArrayTree

Function = Callable[[ArrayTree], jax.Array]


def change_of_gradient(
    function: Function, point: ArrayTree, direction: ArrayTree
) -> ArrayTree:
    """Return d/dt grad function(point + t direction) at t = 0: H v.

    Forward over reverse. A function with a `jax.custom_vjp` that calls itself on the
    way forward has a gradient that can only be gone back through: since H is symmetric,
    that gives the same.

    Args:
      function: `function(point) -> scalar`, traced.
      point: pytree of floating-point arrays.
      direction: pytree with the shapes and types of the point.
    """
    gradient = jax.grad(function)
    if _goes_back_only(jax.make_jaxpr(gradient)(point).jaxpr):
        return jax.vjp(gradient, point)[1](direction)[0]
    gradient = turned.without_transposes(gradient, point)
    return _forward(gradient, direction)(point)[1]


def second_derivative(
    function: Function, point: ArrayTree, direction: ArrayTree
) -> jax.Array:
    """Return d^2/dt^2 function(point + t direction) at t = 0: v.Hv.

    Forward over forward, but from H v where that will not do: a function with a
    `jax.custom_vjp` has no forward mode, and in float16 the sums that a gradient is
    made of may fit where v.Hv does not.

    Args:
      function: `function(point) -> scalar`, traced.
      point: pytree of floating-point arrays.
      direction: pytree with the shapes and types of the point.

    Returns:
      A scalar; NaN where the function is not finite. Inside of `jax.shard_map` it is
      summed over devices that have the point in common, as derivatives are.
    """
    closed = jax.make_jaxpr(function)(point)

    def value(point: ArrayTree) -> jax.Array:
        (result,) = core.jaxpr_as_fun(closed)(*jax.tree.leaves(point))
        return result

    if _goes_back_only(closed.jaxpr) or _is_narrow(closed.jaxpr):
        form = vectors.dot(direction, change_of_gradient(value, point, direction))
        lost = jnp.where(jnp.isfinite(value(point)), 0, jnp.nan)
        return form + over_devices(lost, (point, direction))
    twice = _forward(_forward(value, direction), direction)
    (found, _), (_, second) = twice(point)
    second = jnp.where(jnp.isfinite(found), second, jnp.nan)
    return over_devices(second, (point, direction))


def over_devices(part: jax.Array, common: ArrayTree) -> jax.Array:
    """Return the sum over devices that have `common` in common, inside `shard_map`.

    A gradient in parameters that devices share is such a sum.

    Args:
      part: what each of them found.
      common: what it is a function of, the batch aside.
    """
    axes = _manual.axes_of(part) - _manual.axes_of(common)
    return jax.lax.psum(part, tuple(sorted(axes))) if axes else part


def _forward(
    function: Callable[[ArrayTree], Any], direction: ArrayTree
) -> Callable[[ArrayTree], Any]:
    """Return a function of a point: the value there, and the derivative."""
    return lambda point: jax.jvp(function, (point,), (direction,))


def _goes_back_only(jaxpr: core.Jaxpr) -> bool:
    """Whether a derivative is known in reverse alone, here or in what is called."""
    names = (eqn.primitive.name for eqn in _all_equations(jaxpr))
    return any(name.startswith("custom_vjp_call") for name in names)


def _is_narrow(jaxpr: core.Jaxpr) -> bool:
    """Whether anything is computed in less than float32."""
    results = (atom for eqn in _all_equations(jaxpr) for atom in eqn.outvars)
    dtypes = (getattr(atom.aval, "dtype", jnp.int32) for atom in results)
    return any(
        jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
        for dtype in dtypes
    )


def _all_equations(jaxpr: core.Jaxpr) -> Iterator[_equations.Equation]:
    """Yield the equations of a jaxpr, and those in what it calls."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in _equations.jaxprs_in(eqn):
            yield from _all_equations(inner)
