"""What a program is made of, counted before it is compiled.

Operations as `dpjax.explain` counts them, and the bytes that products, sums, look-ups
and scatters read and write; what is done with each number alone is taken to cost no
bytes, since compilers do it on the way. Loops count at their full length, which XLA's
own analysis does not do. Of branches the shortest counts: the others are for numbers
that overflow or vanish.
"""

from collections.abc import Iterable
from typing import Any

from jax.extend import core

from dpjax.clipping import counting


def operations(jaxpr: core.Jaxpr) -> int:
    """Return the arithmetic operations of what a program puts out."""
    return _operations(counting.live(jaxpr, jaxpr.outvars))


def bytes_moved(jaxpr: core.Jaxpr) -> int:
    """Return the bytes that its products, sums, look-ups and scatters move."""
    return _moved(counting.live(jaxpr, jaxpr.outvars))


def _operations(eqns: Iterable[Any]) -> int:
    return sum(map(_operations_of, eqns))


def _operations_of(eqn: Any) -> int:
    inner = counting.bodies(eqn)
    if not inner:
        return counting.operations([eqn])
    found = [steps * _operations(body.eqns) for steps, body in inner]
    return (min if eqn.primitive.name == "cond" else sum)(found)


def _moved(eqns: Iterable[Any]) -> int:
    return sum(map(_moved_by, eqns))


def _moved_by(eqn: Any) -> int:
    name = eqn.primitive.name
    kernels = (*counting.PRODUCTS, *counting.WINDOWS, *counting.SUMS)
    if name.startswith((*kernels, "gather", "scatter")):
        atoms = [*counting.variables(eqn.invars), *eqn.outvars]
        return sum(counting.size(atom) * atom.aval.dtype.itemsize for atom in atoms)
    counts = [steps * _moved(body.eqns) for steps, body in counting.bodies(eqn)]
    return (min if name == "cond" else sum)(counts or [0])
