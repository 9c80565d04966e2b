"""What a jaxpr costs: arithmetic operations, and bytes beside inputs and results.

Operations are counted the way XLA counts "flops": two for each multiply-add of a matrix
product or a convolution, one for each number that any other arithmetic puts out or sums
up, none for what only moves numbers. The body of a scan counts once for each step,
which XLA's own analysis does not do. Of branches the longest counts, and of code for
several platforms the one that runs here.

Bytes are an estimate of what XLA keeps at a time, good to a factor of two or so: what
products, convolutions, scatters, sums and loops put out is in memory, and so is what
had to be computed to go in; all other arithmetic is fused into what uses it.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from dpjax.clipping.tape import equations
from dpjax.clipping.tape.equations import Equation

_ALIASES = frozenset({"reshape", "squeeze", "expand_dims", "copy", "stop_gradient"})

_MOVES = _ALIASES | {
    "broadcast_in_dim",
    "concatenate",
    "convert_element_type",
    "dynamic_slice",
    "dynamic_update_slice",
    "gather",
    "iota",
    "optimization_barrier",
    "pad",
    "platform_index",
    "rev",
    "scatter",
    "slice",
    "split",
    "transpose",
}

_PRODUCTS = ("dot_general", "conv_general_dilated")
_WINDOWS = ("reduce_window", "select_and_")
_SUMS = ("reduce", "arg", "cum")


class Count(NamedTuple):
    """What a piece of a jaxpr costs.

    Attributes:
      operations: arithmetic operations.
      temporaries: bytes in memory at a time, beside inputs and results.
    """

    operations: int
    temporaries: int


def total(jaxpr: core.Jaxpr, wanted: Sequence[Any]) -> Count:
    """Return what it costs to compute the variables in `wanted`."""
    eqns = live(jaxpr, wanted)
    return Count(operations(eqns), temporaries(eqns, wanted))


def live(jaxpr: core.Jaxpr, wanted: Iterable[Any]) -> list[Equation]:
    """Return the equations that the variables in `wanted` depend on, in order."""
    needed, kept = set(_variables(wanted)), []
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            needed.update(_variables(eqn.invars))
            kept.append(eqn)
    return kept[::-1]


def operations(eqns: Iterable[Equation]) -> int:
    """Return how many arithmetic operations the equations take."""
    return sum(map(_operations, eqns))


def adds_up(eqns: Iterable[Equation]) -> bool:
    """Whether the equations have products or scatters: these sum as they go."""
    return any(eqn.primitive.name.startswith((*_PRODUCTS, "scatter")) for eqn in eqns)


def temporaries(eqns: Sequence[Equation], wanted: Iterable[Any]) -> int:
    """Return the most bytes that are in memory at a time, beside inputs and results.

    Args:
      eqns: equations in order.
      wanted: the variables that are results.
    """
    arrays = _Arrays()
    at_work = [arrays.add(eqn) for eqn in eqns]
    results = set().union(*(arrays.behind(var) for var in _variables(wanted)))
    last: dict[Any, int] = {}
    for step, (read, _) in enumerate(at_work):
        last.update(dict.fromkeys(read, step))
    peak, alive = 0, set[Any]()
    for step, (read, inside) in enumerate(at_work):
        alive |= read - results
        peak = max(peak, inside + sum(map(_bytes, alive)))
        alive = {var for var in alive if last[var] > step}
    return peak


class _Arrays:
    """Which variables are arrays in memory, and which are computed where they are used.

    Inputs are neither: they are there already.
    """

    def __init__(self) -> None:
        self._behind: dict[Any, frozenset[Any]] = {}
        self._fused: set[Any] = set()

    def behind(self, var: Any) -> frozenset[Any]:
        """Return the arrays that must be in memory to have `var`."""
        return self._behind.get(var, frozenset())

    def add(self, eqn: Equation) -> tuple[set[Any], int]:
        """Return the arrays that an equation reads or writes, and bytes inside of it.

        An equation that is fused touches none: what uses it reads what it would read.
        """
        operands = _variables(eqn.invars)
        name = eqn.primitive.name
        inner = _bodies(eqn)
        if not (inner or name.startswith((*_PRODUCTS, *_SUMS, *_WINDOWS, "scatter"))):
            self._fuse(eqn, operands)
            return set(), 0
        read: set[Any] = set().union(*(self.behind(var) for var in operands))
        # What a scatter adds to becomes its result.
        kept = operands[1:] if name.startswith("scatter") else operands
        for var in self._fused.intersection(kept):
            self._write(var)
            read.add(var)
        for var in eqn.outvars:
            self._write(var)
        inside = max((temporaries(j.eqns, j.outvars) for _, j in inner), default=0)
        return read | set(eqn.outvars), inside

    def _fuse(self, eqn: Equation, operands: list[Any]) -> None:
        behind = frozenset[Any]().union(*(self.behind(var) for var in operands))
        self._behind.update(dict.fromkeys(eqn.outvars, behind))
        if eqn.primitive.name not in _ALIASES or self._fused.intersection(operands):
            self._fused.update(eqn.outvars)

    def _write(self, var: Any) -> None:
        self._behind[var] = frozenset({var})
        self._fused.discard(var)


def _operations(eqn: Equation) -> int:
    name = eqn.primitive.name
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        left = _shape(eqn.invars[0])
        return 2 * _size(eqn.outvars[0]) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _convolution(eqn)
    if name in _MOVES:
        return 0
    if name.startswith("scatter"):
        return _size(eqn.invars[2])
    if name.startswith(_WINDOWS):
        small = min(_size(eqn.invars[0]), _size(eqn.outvars[0]))
        return small * math.prod(eqn.params["window_dimensions"])
    if name.startswith(_SUMS):
        return _size(eqn.invars[0])
    inner = _bodies(eqn)
    if not inner:
        return sum(map(_size, eqn.outvars[:1]))
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


def _bodies(eqn: Equation) -> list[tuple[int, core.Jaxpr]]:
    """Return the jaxprs inside of an equation, and how often each is run."""
    name, params = eqn.primitive.name, eqn.params
    if name.startswith(("scatter", *_SUMS, *_WINDOWS)):
        return []
    if name == "cond" and params.get("branches_platforms") is not None:
        here = jax.default_backend()
        chosen = [p is None or here in p for p in params["branches_platforms"]]
        params = {"branch": params["branches"][chosen.index(True)]}
    found = [
        value.jaxpr if isinstance(value, core.ClosedJaxpr) else value
        for value in jax.tree.leaves(list(params.values()))
        if isinstance(value, core.ClosedJaxpr | core.Jaxpr)
    ]
    steps = params["length"] if equations.is_scan(eqn) else 1
    return [(steps, body) for body in found]


def _variables(atoms: Iterable[Any]) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, core.Literal)]


def _shape(atom: Any) -> tuple[int, ...]:
    return tuple(getattr(atom.aval, "shape", ()))


def _size(atom: Any) -> int:
    return math.prod(_shape(atom))


def _bytes(var: Any) -> int:
    return _size(var) * getattr(getattr(var.aval, "dtype", None), "itemsize", 0)
