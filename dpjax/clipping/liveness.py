"""What a jaxpr costs: bytes in memory at a time, beside its inputs and results.

An estimate of what XLA allocates, good to a factor of two or so: what products,
convolutions, scatters, sums and loops put out is in memory, and so is what had to be
computed to go in; all other arithmetic is fused into what uses it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from dpjax._equations import Equation
from dpjax.clipping import counting

_ALIASES = frozenset({"reshape", "squeeze", "expand_dims", "copy", "stop_gradient"})

_WRITES = (*counting.PRODUCTS, *counting.SUMS, *counting.WINDOWS, "scatter")


def temporaries(eqns: Sequence[Equation], wanted: Iterable[Any]) -> int:
    """Return the most bytes that are in memory at a time, beside inputs and results.

    Args:
      eqns: equations in order.
      wanted: the variables that are results.
    """
    arrays = _Arrays()
    at_work = [arrays.add(eqn) for eqn in eqns]
    wanted = counting.variables(wanted)
    results = arrays.holding(wanted)
    last: dict[Any, int] = {}
    for step, (read, _) in enumerate(at_work):
        last.update(dict.fromkeys(read, step))
    at_end = set().union(*map(arrays.behind, wanted))
    last.update(dict.fromkeys(at_end, len(at_work)))
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

    def holding(self, results: list[Any]) -> set[Any]:
        """Return the arrays that are themselves the results, or views of them."""
        stored = [var for var in results if var not in self._fused]
        return set().union(*(self.behind(var) for var in stored))

    def add(self, eqn: Equation) -> tuple[set[Any], int]:
        """Return the arrays that an equation reads or writes, and bytes inside of it.

        An equation that is fused touches none: what uses it reads what it would read.
        """
        operands = counting.variables(eqn.invars)
        name = eqn.primitive.name
        inner = counting.bodies(eqn)
        if not (inner or name.startswith(_WRITES)):
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
        if not _is_alias(eqn) or self._fused.intersection(operands):
            self._fused.update(eqn.outvars)

    def _write(self, var: Any) -> None:
        self._behind[var] = frozenset({var})
        self._fused.discard(var)


def _is_alias(eqn: Equation) -> bool:
    """Whether the result is the operand, perhaps in another shape."""
    if eqn.primitive.name == "broadcast_in_dim":
        return counting.size(eqn.invars[0]) == counting.size(eqn.outvars[0])
    return eqn.primitive.name in _ALIASES


def _bytes(var: Any) -> int:
    return counting.size(var) * getattr(getattr(var.aval, "dtype", None), "itemsize", 0)
