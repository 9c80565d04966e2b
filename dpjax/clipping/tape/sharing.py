"""Taps that have the same cotangent, so that it is written down once.

A cotangent is the sum of what a value's uses send back. Two values have the same one
where their uses are the same: in y = x @ w + b the product and the sum, in
y = x @ w + h @ u both products, and still so where each was cut into the gates of a
recurrent cell before the pieces were added. Cotangents get names by their uses, from
the last equation to the first; equal names, equal cotangents.
"""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

from jax.extend import core

from dpjax import _equations
from dpjax.clipping.tape.program import Step, Tap

_REARRANGING = frozenset(
    {
        "broadcast_in_dim",
        "convert_element_type",
        "copy",
        "reshape",
        "rev",
        "slice",
        "split",
        "squeeze",
        "transpose",
    }
)
"""Linear equations of one operand: what they send back needs no value."""


def with_shared_cotangents(
    steps: Sequence[Step], jaxpr: core.Jaxpr
) -> tuple[Step, ...]:
    """Let the last of all taps that have one cotangent write it down for the others."""
    names = _Names(jaxpr)
    results = [result for result in map(_only_result, steps) if result is not None]
    writers = {names.of(result): result for result in results}

    def shared(step: Step) -> Step:
        result = _only_result(step)
        if result is None or not isinstance(step, Tap):
            return step
        writer = writers[names.of(result)]
        return step if writer is result else dataclasses.replace(step, shared=writer)

    return tuple(map(shared, steps))


def _only_result(step: Step) -> Any:
    """Return the result of an equation that is a tap and has no other."""
    if not isinstance(step, Tap) or step.eqn is None or len(step.outvars) > 1:
        return None
    return step.outvars[0]


class _Names:
    """A number for each variable's cotangent."""

    def __init__(self, jaxpr: core.Jaxpr) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._uses: dict[Any, list[int]] = {}
        for i, atom in enumerate(jaxpr.outvars):
            self._add(atom, self._number(("result", i)))
        for i, eqn in reversed(list(enumerate(jaxpr.eqns))):
            sent = tuple(map(self.of, eqn.outvars))
            for j, atom in enumerate(eqn.invars):
                self._add(atom, self._sent_back(i, eqn, j, sent))

    def of(self, var: Any) -> int:
        """Return the number of a variable's cotangent."""
        uses = self._uses.get(var, [])
        return uses[0] if len(uses) == 1 else self._number(("sum", *sorted(uses)))

    def _add(self, atom: Any, use: int) -> None:
        if not isinstance(atom, core.Literal):
            self._uses.setdefault(atom, []).append(use)

    def _sent_back(
        self, i: int, eqn: _equations.Equation, j: int, sent: tuple[int, ...]
    ) -> int:
        """Return the number of what equation `i` sends back to its operand `j`."""
        name, aval = eqn.primitive.name, _kind(eqn.invars[j])
        if name in ("add", "add_any") and aval == _kind(eqn.outvars[0]):
            return sent[0]
        if name in _REARRANGING and len(eqn.invars) == 1:
            return self._number(("moved", name, repr(eqn.params), aval, sent))
        return self._number(("operand", i, j))

    def _number(self, key: Hashable) -> int:
        return self._numbers.setdefault(key, len(self._numbers))


def _kind(atom: Any) -> tuple[Any, Any]:
    return atom.aval.shape, atom.aval.dtype
