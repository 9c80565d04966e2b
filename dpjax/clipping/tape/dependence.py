"""What each value of a jaxpr depends on: nothing, parameters, or the example."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core

from dpjax import _equations
from dpjax.clipping.tape.views import View, view_of


class Source(NamedTuple):
    """What a value depends on.

    Attributes:
      from_example: whether it differs between examples; the rest is then empty.
      leaves: the parameter leaves that it depends on differentiably.
      root: what it is a view of: the index of a parameter leaf, or the variable of the
        same program in which parameters were last computed with.
      views: the views that lead from the root to it.
      pieces: where it was concatenated from views of leaves: axis, start, and source of
        each, in the place of the root.
      stack: for each enclosing scan, outermost first, whether it changes from step to
        step. Seen from outside it has a leading axis for each of those scans.
    """

    from_example: bool = False
    leaves: frozenset[int] = frozenset()
    root: Any = None
    views: tuple[View, ...] = ()
    pieces: tuple["Piece", ...] = ()
    stack: tuple[bool, ...] = ()

    @property
    def is_weight(self) -> bool:
        """Whether it depends on parameters, and no example took part."""
        return bool(self.leaves) and not self.from_example


class Piece(NamedTuple):
    """A part of a weight that was concatenated.

    Attributes:
      axis: the axis of the weight along which it lies.
      start: where it begins.
      size: how long it is.
      source: what it is a view of: always a parameter leaf.
    """

    axis: int
    start: int
    size: int
    source: Source


EXAMPLE = Source(from_example=True)

Sources = dict[Any, Source]


def parameter(leaf: int) -> Source:
    """Return the source of a parameter leaf itself."""
    return Source(leaves=frozenset({leaf}), root=leaf)


def computed(
    var: Any, leaves: frozenset[int] = frozenset(), stack: tuple[bool, ...] = ()
) -> Source:
    """Return the source of a value that no example took part in computing."""
    if leaves and not is_float(var):
        leaves = frozenset()
    return Source(leaves=leaves, root=var if leaves else None, stack=stack)


def of_outputs(
    eqn: _equations.Equation, operands: Sequence[Source], level: int
) -> list[Source]:
    """Return what the results of a simple equation depend on, inside `level` scans."""
    if any(source.from_example for source in operands):
        return [EXAMPLE for _ in eqn.outvars]
    stack = tuple(
        any(source.stack[i] for source in operands if source.stack)
        for i in range(level)
    )
    leaves = frozenset[int]().union(*(source.leaves for source in operands))
    if eqn.primitive.name == "stop_gradient":
        leaves = frozenset()
    view = float_view(eqn)
    if view is not None and leaves:
        views = (*operands[0].views, view._replace(depth=sum(stack)))
        return [operands[0]._replace(views=views)]
    results = [computed(var, leaves, stack) for var in eqn.outvars]
    if eqn.primitive.name == "concatenate" and not any(stack):
        results[0] = results[0]._replace(pieces=_pieces(eqn, operands))
    return results


def _pieces(eqn: _equations.Equation, operands: Sequence[Source]) -> tuple[Piece, ...]:
    """Return the parts of a concatenation, if all are views of leaves, or nothing."""
    if not all(isinstance(source.root, int) for source in operands):
        return ()
    axis, start, pieces = eqn.params["dimension"], 0, []
    for atom, source in zip(eqn.invars, operands, strict=True):
        size = _aval(atom).shape[axis]
        pieces.append(Piece(axis, start, size, source))
        start += size
    return tuple(pieces)


def float_view(eqn: _equations.Equation) -> View | None:
    """Return how the equation rearranges its one operand, or `None`."""
    if len(eqn.invars) != 1 or not all(map(is_float, (*eqn.invars, *eqn.outvars))):
        return None
    dtypes = [_aval(atom).dtype for atom in (*eqn.invars, *eqn.outvars)]
    if len({jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes}) > 1:
        return None
    return view_of(eqn.primitive.name, eqn.params, _aval(eqn.invars[0]).shape)


def _aval(atom: Any) -> Any:
    return atom.aval


def is_float(atom: Any) -> bool:
    """Whether a variable can carry a gradient."""
    if isinstance(atom, core.Literal):
        return False
    return bool(jnp.issubdtype(atom.aval.dtype, jnp.inexact))


def active_variables(jaxpr: core.Jaxpr, active: Sequence[bool]) -> set[Any]:
    """Return the variables through which the outputs in `active` are differentiable.

    Args:
      jaxpr: the equations.
      active: for each output, whether a gradient comes in through it.
    """
    outputs = zip(jaxpr.outvars, active, strict=True)
    found = {var for var, is_active in outputs if is_active and is_float(var)}
    for eqn in reversed(jaxpr.eqns):
        if eqn.primitive.name != "stop_gradient" and found.intersection(eqn.outvars):
            found.update(atom for atom in eqn.invars if is_float(atom))
    return found
