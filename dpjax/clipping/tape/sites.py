"""Every weight at every tap: what the rules are asked about."""

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import jax

from dpjax import _equations
from dpjax.clipping.tape.dependence import Source
from dpjax.clipping.tape.guard import unmarked
from dpjax.clipping.tape.program import Nested, Program, Tap


class Seen(NamedTuple):
    """What one example showed at one tap.

    Attributes:
      inputs: the operands that are no weights, in their order.
      cotangents: the derivative of the loss with respect to each differentiable result,
        with what is not finite marked (see `guard`).
    """

    inputs: list[jax.Array]
    cotangents: list[jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """One weight at one tap.

    Attributes:
      tap: index of the tap among those of the tape.
      primitive: name of the tap's equation; "identity" where there is none.
      params: parameters of that equation.
      position: which operand the weight is.
      source: which parameters the weight comes from, and how.
      lengths: the lengths of the scans around the tap, outermost first. What was seen
        has an axis for each; the weight only for those in `source.stack`.
      entry: index of the weight's root among `Tape.entries`, unless it is a parameter.
      shapes: shape and dtype of each operand, at one step.
      results: shape and dtype of each differentiable result, at one step.
    """

    tap: int
    primitive: str
    params: dict[str, Any]
    position: int
    source: Source
    lengths: tuple[int, ...]
    entry: int | None
    shapes: tuple[Any, ...]
    results: tuple[Any, ...]
    _tap: Tap
    _entries: tuple[int | None, ...]

    @property
    def recorded(self) -> tuple[int, ...]:
        """Positions of the operands that were written down."""
        return self._tap.records

    @property
    def weight(self) -> Any:
        """Shape and dtype of the weight at one step."""
        return self.shapes[self.position]

    def pull_back(self, seen: Seen, weights: list[Any]) -> jax.Array:
        """Return one example's gradient by the derivative of the tap itself.

        Args:
          seen: what the example showed; axes of the scans in front.
          weights: the tap's weights in their order, with the axes that they vary in.

        Returns:
          The gradient with respect to this weight, summed over what it is shared by.
        """
        tap = self._tap
        if tap.eqn is None:
            return unmarked(seen.cotangents[0])
        run = functools.partial(_results, tap)
        for axis in reversed(range(len(self.lengths))):
            varies = [0 if tap.sources[i].stack[axis] else None for i in tap.weights]
            run = jax.vmap(run, in_axes=(varies, 0))
        which = tap.weights.index(self.position)

        def results(weight: jax.Array) -> list[jax.Array]:
            replaced = [*weights[:which], weight, *weights[which + 1 :]]
            return run(replaced, seen.inputs)

        _, transpose = jax.vjp(results, weights[which])
        return transpose([unmarked(value) for value in seen.cotangents])[0]

    def weights(self, leaves: list[jax.Array], entries: Any) -> list[jax.Array]:
        """Return the values of all weights of the tap."""
        known = jax.tree.leaves(entries)
        values = []
        for position, entry in zip(self._tap.weights, self._entries, strict=True):
            source = self._tap.sources[position]
            value = leaves[source.root] if entry is None else known[entry]
            for view in source.views:
                value = view.apply(value)
            values.append(value)
        return values


def _results(tap: Tap, weights: list[Any], inputs: list[Any]) -> list[jax.Array]:
    """Evaluate a tap at one step."""
    pending = {True: iter(weights), False: iter(inputs)}
    values = [
        next(pending[i in tap.weights])
        if i in tap.weights or i in tap.records
        else atom.val
        for i, atom in enumerate(tap.invars)
    ]
    assert tap.eqn is not None
    found = _equations.apply(tap.eqn, values)
    return [found[i] for i in tap.outputs]


def sites_of(program: Program) -> list[Site]:
    """Return every weight at every tap, in the order in which `run` meets the taps."""
    sites: list[Site] = []
    taps = itertools.count()
    entries = itertools.count()

    def walk(inner: Program, lengths: tuple[int, ...]) -> None:
        index = {var: next(entries) for var in inner.needs}
        for step in inner.steps:
            if isinstance(step, Tap):
                sites.extend(_weights_of(step, next(taps), lengths, index))
            elif isinstance(step, Nested):
                length = (step.eqn.params["length"],) if step.is_scan else ()
                walk(step.program, (*lengths, *length))

    walk(program, ())
    return sites


def _weights_of(
    tap: Tap, number: int, lengths: tuple[int, ...], index: dict[Any, int]
) -> list[Site]:
    roots = [tap.sources[i].root for i in tap.weights]
    entries = tuple(None if isinstance(root, int) else index[root] for root in roots)
    name = "identity" if tap.eqn is None else tap.eqn.primitive.name
    params = {} if tap.eqn is None else tap.eqn.params
    return [
        Site(
            tap=number,
            primitive=name,
            params=params,
            position=position,
            source=tap.sources[position],
            lengths=lengths,
            entry=entry,
            shapes=tuple(atom.aval for atom in tap.invars),
            results=tuple(tap.outvars[i].aval for i in tap.outputs),
            _tap=tap,
            _entries=entries,
        )
        for position, entry in zip(tap.weights, entries, strict=True)
    ]
