"""A jaxpr split in two: what is the same for all examples, and what is not.

The first part is evaluated once, outside of `vmap`; the second is replayed for every
example. Where a value of the first that depends on parameters enters an equation of the
second, that equation is a tap.
"""

import dataclasses
from typing import Any

from jax.extend import core

from dpjax import _equations
from dpjax.clipping.tape import dependence
from dpjax.clipping.tape.dependence import Source, Sources


@dataclasses.dataclass(frozen=True, eq=False)
class Public:
    """An equation that no example takes part in."""

    eqn: _equations.Equation


@dataclasses.dataclass(frozen=True, eq=False)
class Plain:
    """An equation of the example, through which no gradient of a parameter flows."""

    eqn: _equations.Equation


@dataclasses.dataclass(frozen=True, eq=False)
class Tap:
    """An equation where parameters meet the example.

    Attributes:
      eqn: the equation, or `None` where a weight is used as if it were the example's.
      invars: its operands.
      outvars: its results.
      sources: what each operand depends on.
      shared: the result of another tap that has the same cotangent and writes it down
        for this one, if there is one.
    """

    eqn: _equations.Equation | None
    invars: tuple[Any, ...]
    outvars: tuple[Any, ...]
    sources: tuple[Source, ...]
    shared: Any = None

    @property
    def weights(self) -> tuple[int, ...]:
        """Positions of the operands that are weights."""
        return tuple(i for i, s in enumerate(self.sources) if s.is_weight)

    @property
    def records(self) -> tuple[int, ...]:
        """Positions of the operands that are no weights: they are written down."""
        return tuple(
            i
            for i, (atom, s) in enumerate(zip(self.invars, self.sources, strict=True))
            if not s.is_weight and not isinstance(atom, core.Literal)
        )

    @property
    def outputs(self) -> tuple[int, ...]:
        """Positions of the results that can carry a gradient."""
        return tuple(i for i, v in enumerate(self.outvars) if dependence.is_float(v))

    @property
    def probed(self) -> tuple[int, ...]:
        """Positions of the results whose cotangents are written down here."""
        return self.outputs if self.shared is None else ()


@dataclasses.dataclass(frozen=True, eq=False)
class Nested:
    """A scan or a remat, with the program of what it repeats.

    Attributes:
      eqn: the equation.
      program: its body.
      invars: what the body takes (a copy of a weight that it takes for data).
    """

    eqn: _equations.Equation
    program: "Program"
    invars: tuple[Any, ...]

    @property
    def is_scan(self) -> bool:
        """Whether it is a scan."""
        return _equations.is_scan(self.eqn)

    @property
    def bounds(self) -> tuple[int, int]:
        """Where the carry of a scan begins and where it ends among its operands."""
        return _equations.scan_bounds(self.eqn)


Step = Public | Plain | Tap | Nested


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A jaxpr whose equations are sorted by what they depend on.

    Attributes:
      closed: the flat jaxpr.
      sources: what each variable depends on.
      steps: its equations, in order.
      outvars: its results.
      needs: variables of the public part that the other part reads.
      level: how many scans it is inside of.
    """

    closed: core.ClosedJaxpr
    sources: Sources
    steps: tuple[Step, ...]
    outvars: tuple[Any, ...]
    needs: tuple[Any, ...]
    level: int

    def from_example(self, atom: Any) -> bool:
        """Whether a variable or literal differs between examples."""
        if isinstance(atom, core.Literal):
            return False
        return self.sources[atom].from_example

    @property
    def has_own_kernels(self) -> bool:
        """Whether a convolution may take a kernel that differs between examples."""
        taken = [step.eqn for step in self.steps if isinstance(step, Plain | Tap)]
        here = any(eqn is not None and self._takes_own_kernel(eqn) for eqn in taken)
        return here or any(step.program.has_own_kernels for step in self.nested)

    def _takes_own_kernel(self, eqn: _equations.Equation) -> bool:
        if _equations.is_convolution(eqn):
            return self.from_example(eqn.invars[1])
        return any(
            _equations.contains(inner, _equations.is_convolution)
            for inner in _equations.jaxprs_in(eqn)
        )

    @property
    def invars(self) -> list[Any]:
        """The inputs."""
        return self.closed.jaxpr.invars

    @property
    def nested(self) -> list[Nested]:
        """The scans and remats among the steps, in order."""
        return [step for step in self.steps if isinstance(step, Nested)]
