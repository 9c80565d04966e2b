"""Sort the equations of a jaxpr into a `Program`."""

from collections.abc import Sequence
from typing import Any

from jax.extend import core

from dpjax import _equations
from dpjax.clipping.tape import dependence
from dpjax.clipping.tape.dependence import EXAMPLE, Source, Sources
from dpjax.clipping.tape.program import Nested, Plain, Program, Public, Step, Tap
from dpjax.clipping.tape.sharing import with_shared_cotangents


def split(
    closed: core.ClosedJaxpr,
    inputs: Sequence[Source],
    active: Sequence[bool],
    as_data: Sequence[bool],
    level: int = 0,
) -> Program:
    """Sort the equations of a flat jaxpr.

    Args:
      closed: the jaxpr.
      inputs: what each of its inputs depends on.
      active: for each output, whether a gradient comes in through it.
      as_data: for each output, whether the example's part must have it, even if it
        depends on no example.
      level: how many scans the jaxpr is inside of.
    """
    splitter = _Splitter(closed, inputs, active, level)
    for eqn in closed.jaxpr.eqns:
        splitter.add(eqn)
    outvars = tuple(
        splitter.data_copy(var) if wanted else var
        for var, wanted in zip(closed.jaxpr.outvars, as_data, strict=True)
    )
    wanted = [v for v, is_wanted in zip(outvars, as_data, strict=True) if is_wanted]
    return splitter.program(outvars, wanted)


class _Copy:
    """A variable of the example's part with the value of a public one."""

    def __init__(self, aval: Any) -> None:
        self.aval = aval


class _Splitter:
    def __init__(
        self,
        closed: core.ClosedJaxpr,
        inputs: Sequence[Source],
        active: Sequence[bool],
        level: int,
    ) -> None:
        jaxpr = closed.jaxpr
        self.closed = closed
        self.level = level
        constant = Source(stack=(False,) * level)
        self.sources: Sources = dict.fromkeys(jaxpr.constvars, constant)
        self.sources.update(zip(jaxpr.invars, inputs, strict=True))
        self.active = dependence.active_variables(jaxpr, active)
        self.steps: list[Step] = []

    def add(self, eqn: _equations.Equation) -> None:
        if _equations.is_scan(eqn):
            self._add_scan(eqn)
        elif _equations.is_remat(eqn):
            self._add_remat(eqn)
        else:
            self._add_simple(eqn)

    def data_copy(self, atom: Any) -> Any:
        """Return `atom`, or where it is a weight that matters, an example's copy."""
        (source,) = self._of([atom])
        if not source.is_weight or atom not in self.active:
            return atom
        copy = _Copy(atom.aval)
        self.sources[copy] = EXAMPLE
        self.steps.append(Tap(None, (atom,), (copy,), (source,)))
        return copy

    def program(self, outvars: tuple[Any, ...], wanted: list[Any]) -> Program:
        views = {
            step.eqn.outvars[0]: step.eqn.invars[0]
            for step in self.steps
            if isinstance(step, Public) and self._is_weight_view(step.eqn)
        }
        needs: dict[Any, None] = {}
        for atom in [*wanted, *(a for step in self.steps for a in self._reads(step))]:
            start = atom
            while not isinstance(start, core.Literal) and start in views:
                start = views[start]
            if not isinstance(start, core.Literal):
                needs.setdefault(start)
        public = tuple(var for var in needs if not self.sources[var].from_example)
        steps = with_shared_cotangents(self.steps, self.closed.jaxpr)
        return Program(self.closed, self.sources, steps, outvars, public, self.level)

    def _of(self, atoms: Sequence[Any]) -> list[Source]:
        constant = Source(stack=(False,) * self.level)
        return [
            constant if isinstance(atom, core.Literal) else self.sources[atom]
            for atom in atoms
        ]

    def _is_weight_view(self, eqn: _equations.Equation) -> bool:
        is_view = dependence.float_view(eqn) is not None
        return is_view and self.sources[eqn.outvars[0]].is_weight

    def _reads(self, step: Step) -> Sequence[Any]:
        """Return what the example's part of a step reads."""
        if isinstance(step, Public):
            return ()
        if isinstance(step, Plain):
            return step.eqn.invars
        if isinstance(step, Tap):
            return step.invars
        return _scan_reads(step) if step.is_scan else ()

    def _is_active(self, eqn: _equations.Equation) -> bool:
        return bool(self.active.intersection(eqn.outvars))

    def _add_simple(self, eqn: _equations.Equation) -> None:
        operands = self._of(eqn.invars)
        results = dependence.of_outputs(eqn, operands, self.level)
        self.sources.update(zip(eqn.outvars, results, strict=True))
        if not any(source.from_example for source in operands):
            self.steps.append(Public(eqn))
        elif self._is_active(eqn) and any(source.is_weight for source in operands):
            invars, outvars = tuple(eqn.invars), tuple(eqn.outvars)
            self.steps.append(Tap(eqn, invars, outvars, tuple(operands)))
        else:
            self.steps.append(Plain(eqn))

    def _add_remat(self, eqn: _equations.Equation) -> None:
        closed = _equations.body(eqn)
        inputs = [
            _entering(source, var)
            for source, var in zip(
                self._of(eqn.invars), closed.jaxpr.invars, strict=True
            )
        ]
        active = [var in self.active for var in eqn.outvars]
        as_data = [False] * len(active)
        program = split(closed, inputs, active, as_data, self.level)
        self._add_nested(eqn, program, tuple(eqn.invars))

    def _add_scan(self, eqn: _equations.Equation) -> None:
        closed = _equations.body(eqn)
        first, last = _equations.scan_bounds(eqn)
        inputs = [
            _stepping(source, var, varies=i >= first, carried=first <= i < last)
            for i, (source, var) in enumerate(
                zip(self._of(eqn.invars), closed.jaxpr.invars, strict=True)
            )
        ]
        active = [self._is_active(eqn)] * len(eqn.outvars)
        program = _carry_fixpoint(closed, inputs, active, self.level + 1, first, last)
        invars = tuple(
            self.data_copy(atom)
            if first <= i < last and program.sources[var].from_example
            else atom
            for i, (atom, var) in enumerate(
                zip(eqn.invars, program.invars, strict=True)
            )
        )
        self._add_nested(eqn, program, invars)

    def _add_nested(
        self, eqn: _equations.Equation, program: Program, invars: tuple[Any, ...]
    ) -> None:
        has_example = any(source.from_example for source in self._of(eqn.invars))
        has_example |= any(not isinstance(step, Public) for step in program.steps)
        constant = Source(stack=(False,) * program.level)
        for var, inner in zip(eqn.outvars, program.outvars, strict=True):
            is_literal = isinstance(inner, core.Literal)
            source = constant if is_literal else program.sources[inner]
            has_example |= source.from_example
            stack = source.stack[: self.level]
            result = dependence.computed(var, source.leaves, stack)
            self.sources[var] = EXAMPLE if source.from_example else result
        self.steps.append(Nested(eqn, program, invars) if has_example else Public(eqn))


def _entering(source: Source, var: Any) -> Source:
    """Return the source of a value inside of a body, where `var` is its name."""
    if source.is_weight and not isinstance(source.root, int):
        return source._replace(root=var, views=())
    return source


def _stepping(source: Source, var: Any, *, varies: bool, carried: bool) -> Source:
    """Return the source of a value inside of a scan's body."""
    if source.from_example:
        return source
    stack = (*source.stack, varies)
    if carried:
        return dependence.computed(var, source.leaves, stack)
    pieces = () if varies else source.pieces
    return _entering(source, var)._replace(stack=stack, pieces=pieces)


def _carry_fixpoint(
    closed: core.ClosedJaxpr,
    inputs: list[Source],
    active: Sequence[bool],
    level: int,
    first: int,
    last: int,
) -> Program:
    """Split a scan's body once it is known which of its carry the example reaches."""
    as_data = [False] * len(active)
    while True:
        program = split(closed, inputs, active, as_data, level)
        changed = False
        for i in range(first, last):
            before, out = inputs[i], program.outvars[i - first]
            if before.from_example or isinstance(out, core.Literal):
                continue
            after = program.sources[out]
            leaves = before.leaves | after.leaves
            if after.from_example or leaves != before.leaves:
                stack = before.stack
                var = closed.jaxpr.invars[i]
                grown = dependence.computed(var, leaves, stack)
                inputs[i] = EXAMPLE if after.from_example else grown
                changed = True
        if not changed:
            break
    for i in range(first, last):
        as_data[i - first] = inputs[i].from_example
    return split(closed, inputs, active, as_data, level)


def _scan_reads(step: Nested) -> list[Any]:
    """Return the operands that a scan's replay takes as they are: its carry."""
    first, last = step.bounds
    inside = step.program.invars
    return [
        step.invars[i]
        for i in range(first, last)
        if step.program.sources[inside[i]].from_example
    ]
