"""What a jaxpr costs: arithmetic operations, counted the way XLA counts "flops".

Two for each multiply-add of a matrix product or a convolution, one for each number that
any other arithmetic puts out or sums up, none for what only moves numbers. The body of
a scan counts once for each step, which XLA's own analysis does not do. Of branches the
longest counts, and of code for several platforms the one that runs here.
"""

import math
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.extend import core

from dpjax import _equations
from dpjax._equations import Equation

_MOVES = {
    "broadcast_in_dim",
    "concatenate",
    "convert_element_type",
    "copy",
    "dynamic_slice",
    "dynamic_update_slice",
    "expand_dims",
    "gather",
    "iota",
    "optimization_barrier",
    "pad",
    "platform_index",
    "reshape",
    "rev",
    "scatter",
    "slice",
    "split",
    "squeeze",
    "stop_gradient",
    "transpose",
}

PRODUCTS = ("dot_general", "conv_general_dilated")
WINDOWS = ("reduce_window", "select_and_")
SUMS = ("reduce", "arg", "cum")


def live(jaxpr: core.Jaxpr, wanted: Iterable[Any]) -> list[Equation]:
    """Return the equations that the variables in `wanted` depend on, in order."""
    needed, kept = set(variables(wanted)), []
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            needed.update(variables(eqn.invars))
            kept.append(eqn)
    return kept[::-1]


def operations(eqns: Iterable[Equation]) -> int:
    """Return how many arithmetic operations the equations take."""
    return sum(map(_operations, eqns))


def adds_up(eqns: Iterable[Equation]) -> bool:
    """Whether the equations have products or scatters: these sum as they go."""
    return any(eqn.primitive.name.startswith((*PRODUCTS, "scatter")) for eqn in eqns)


def _operations(eqn: Equation) -> int:
    name = eqn.primitive.name
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        left = _shape(eqn.invars[0])
        return 2 * size(eqn.outvars[0]) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _convolution(eqn)
    if name in _MOVES or (name == "add" and any(map(_is_zero, eqn.invars))):
        return 0
    if name.startswith("scatter"):
        return size(eqn.invars[2])
    if name.startswith(WINDOWS):
        small = min(size(eqn.invars[0]), size(eqn.outvars[0]))
        return small * math.prod(eqn.params["window_dimensions"])
    if name.startswith(SUMS):
        return size(eqn.invars[0])
    inner = bodies(eqn)
    if not inner:
        return sum(map(size, eqn.outvars[:1]))
    counts = [steps * operations(body.eqns) for steps, body in inner]
    return max(counts) if name == "cond" else sum(counts)


def _convolution(eqn: Equation) -> int:
    """Count the multiply-adds that meet no padding and no hole, as XLA does."""
    image, kernel = map(_shape, eqn.invars)
    out, params = _shape(eqn.outvars[0]), eqn.params
    numbers = params["dimension_numbers"]
    spatial = zip(
        (image[axis] for axis in numbers.lhs_spec[2:]),
        (kernel[axis] for axis in numbers.rhs_spec[2:]),
        (out[axis] for axis in numbers.out_spec[2:]),
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        strict=True,
    )
    meetings = math.prod(_meetings(*axis) for axis in spatial)
    batch, outputs = (out[axis] for axis in numbers.out_spec[:2])
    inputs = kernel[numbers.rhs_spec[1]]
    return 2 * batch * outputs * inputs * meetings


def _meetings(
    image: int,
    kernel: int,
    out: int,
    stride: int,
    padding: tuple[int, int],
    hole: int,
    dilation: int,
) -> int:
    """Return how often an element of the kernel meets one of the image, on one axis."""
    places = (
        position * stride + offset * dilation - padding[0]
        for position in range(out)
        for offset in range(kernel)
    )
    return sum(0 <= at <= (image - 1) * hole and at % hole == 0 for at in places)


def bodies(eqn: Equation) -> list[tuple[int, core.Jaxpr]]:
    """Return the jaxprs inside of an equation, and how often each is run."""
    name, params = eqn.primitive.name, eqn.params
    if name.startswith(("scatter", *SUMS, *WINDOWS)):
        return []
    found = _equations.jaxprs_in(eqn)
    if name == "cond" and params.get("branches_platforms") is not None:
        here = jax.default_backend()
        chosen = [p is None or here in p for p in params["branches_platforms"]]
        found = [found[chosen.index(True)]]
    steps = params["length"] if _equations.is_scan(eqn) else 1
    return [(steps, body) for body in found]


def variables(atoms: Iterable[Any]) -> list[Any]:
    """Return what is not a literal."""
    return [atom for atom in atoms if not isinstance(atom, core.Literal)]


def _is_zero(atom: Any) -> bool:
    return isinstance(atom, core.Literal) and bool(np.all(atom.val == 0))


def _shape(atom: Any) -> tuple[int, ...]:
    return tuple(getattr(atom.aval, "shape", ()))


def size(atom: Any) -> int:
    """Return how many numbers a variable or a literal has."""
    return math.prod(_shape(atom))
