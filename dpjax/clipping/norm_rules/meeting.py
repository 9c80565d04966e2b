"""What a rule is given, and where rules are kept."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpjax.clipping.forms import Form, Formed


class Meeting(NamedTuple):
    """What a batch showed where a weight meets it.

    Attributes:
      params: parameters of the equation.
      position: which operand the weight is.
      weight: shape of the weight at one step.
      inputs: for each operand, its values `(batch, stack, shared, *shape)`, or `None`
        for the weight and for literals.
      cotangents: for each result, the same; in float32 at least.
      stack: leading axes of the weight, from scans that step through it; their product
        is the axis `stack` above.
    """

    params: dict[str, Any]
    position: int
    weight: tuple[int, ...]
    inputs: Sequence[jax.Array | None]
    cotangents: Sequence[jax.Array]
    stack: tuple[int, ...]

    @property
    def other(self) -> jax.Array | None:
        """The other operand of a product."""
        return self.inputs[1 - self.position]

    @property
    def cotangent(self) -> jax.Array:
        """The cotangent of the only result; finite, with marks (see `tape.guard`)."""
        return self.cotangents[0]

    def over_steps(self, value: jax.Array, *, marked: bool = False) -> Formed:
        """Sum `(batch, stack, shared, *weight)` over the steps that share the weight.

        Args:
          value: gradients at each step.
          marked: whether they are finite, with marks. A sum of marks is again one, or
            infinite.
        """
        marked = marked and value.shape[2] == 1
        summed = value[:, :, 0] if value.shape[2] == 1 else _sum_of_steps(value)
        lead = (value.shape[0], *self.stack)
        return Formed(summed.reshape(*lead, *self.weight), marked=marked)


def _sum_of_steps(value: jax.Array) -> jax.Array:
    """Sum the steps of a scan by a product.

    Scans write them one after the other, and within each the examples side by side:
    a CPU takes up to 50 times as long to reduce such an axis.
    """
    # Without axes of length one, XLA finds the array that it has already.
    short = [n for axis, n in enumerate(value.shape) if n != 1 or axis == 2]
    place = sum(n != 1 for n in value.shape[:2])
    steps = jnp.moveaxis(value.reshape(short), place, 0)
    rows = steps.reshape(len(steps), math.prod(steps.shape[1:]))
    total = jnp.dot(jnp.ones(len(steps), value.dtype), rows, precision="highest")
    return total.reshape(*value.shape[:2], *value.shape[3:])


Rule = Callable[[Meeting], Form | None]

RULES: dict[str, Rule] = {}
"""The rules by the name of the primitive."""


def rule(*primitives: str) -> Callable[[Rule], Rule]:
    """Register a rule."""

    def register(fn: Rule) -> Rule:
        RULES.update(dict.fromkeys(primitives, fn))
        return fn

    return register


def rest_of(count: int, taken: Sequence[int]) -> tuple[int, ...]:
    """Return the axes below `count` that are not taken."""
    return tuple(axis for axis in range(count) if axis not in taken)


def as_matrices(
    value: jax.Array,
    groups: Sequence[int],
    positions: Sequence[int],
    elements: Sequence[int],
) -> jax.Array:
    """Arrange `(batch, stack, shared, *shape)` as `(batch, groups, positions, rest)`.

    The stack joins the groups, the shared steps join the positions.
    """
    shape = value.shape[3:]
    order = (0, 1, *(3 + axis for axis in groups), 2)
    order = (*order, *(3 + axis for axis in (*positions, *elements)))
    num_groups = value.shape[1] * math.prod(shape[axis] for axis in groups)
    num_positions = value.shape[2] * math.prod(shape[axis] for axis in positions)
    size = math.prod(shape[axis] for axis in elements)
    moved = jnp.transpose(value, order)
    return moved.reshape(value.shape[0], num_groups, num_positions, size)
