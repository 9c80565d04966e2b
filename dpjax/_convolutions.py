"""Convolutions as XLA splits them over devices without fault.

Where each example has a kernel, or a kernel's gradient, of its own, examples are groups
of one convolution, often with one input channel a group. XLA keeps such groups on the
devices where the examples are, but takes the axes of the result by the inverse of their
permutation (seen with JAX 0.10.2 and 0.12.0): where that is another one, as in kernels'
gradients, results of all examples on all devices but the first are zero, without a
word. Where the result has its axes as the input has, there is no permutation.
"""

from typing import Any

import jax
from jax.extend import core

from dpjax import _equations, _manual


def in_order(jaxpr: core.Jaxpr) -> core.Jaxpr:
    """Return the same jaxpr, the results of such convolutions in their inputs' order.

    Each is followed by the transpose to the order that it had.
    """
    eqns: list[_equations.Equation] = []
    for eqn in jaxpr.eqns:
        inner = _equations.jaxprs_in(eqn)
        if _is_out_of_order(eqn):
            eqns += _turned(eqn)
        elif any(_equations.contains(x, _is_out_of_order) for x in inner):
            params = {name: _edited(value) for name, value in eqn.params.items()}
            eqns.append(eqn.replace(params=params))
        else:
            eqns.append(eqn)
    return jaxpr.replace(eqns=eqns)


def _edited(value: Any) -> Any:
    """Return a parameter of an equation with the jaxprs in it in order."""
    if isinstance(value, core.ClosedJaxpr):
        return value.replace(jaxpr=in_order(value.jaxpr))
    if isinstance(value, core.Jaxpr):
        return in_order(value)
    if isinstance(value, tuple):
        return tuple(map(_edited, value))
    return value


def _is_out_of_order(eqn: _equations.Equation) -> bool:
    """Whether XLA may lose results of this convolution where examples are its groups.

    What it has before: one input channel a group, and an order of the result's axes
    other than that of its input's.
    """
    if not _equations.is_convolution(eqn):
        return False
    numbers = eqn.params["dimension_numbers"]
    kernel: Any = eqn.invars[1].aval
    is_thin = kernel.shape[numbers.rhs_spec[1]] == 1
    return is_thin and numbers.lhs_spec != numbers.out_spec


def _turned(eqn: _equations.Equation) -> list[_equations.Equation]:
    """Return a convolution with its result in order, and the transpose after it."""
    numbers = eqn.params["dimension_numbers"]
    ordered = numbers._replace(out_spec=numbers.lhs_spec)
    axes = dict(zip(numbers.out_spec, numbers.lhs_spec, strict=True))

    def both(image: jax.Array, kernel: jax.Array) -> jax.Array:
        params = {**eqn.params, "dimension_numbers": ordered}
        result: jax.Array = eqn.primitive.bind(image, kernel, **params)
        return jax.lax.transpose(result, [axes[axis] for axis in range(result.ndim)])

    kinds: list[Any] = [operand.aval for operand in eqn.invars]
    traced = jax.make_jaxpr(both)(*map(_manual.shaped, kinds))
    convolution, transpose = traced.jaxpr.eqns
    return [
        convolution.replace(invars=eqn.invars),
        transpose.replace(outvars=eqn.outvars),
    ]
