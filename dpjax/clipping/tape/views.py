"""Views: the equations that only rearrange a parameter before it meets data.

Where a weight is a parameter that was merely transposed, reshaped, broadcast or cast,
a gradient goes back to the parameter by undoing those steps: no derivative is needed,
and as long as nothing was broadcast the norm stays the same.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class View(NamedTuple):
    """One rearrangement, acting behind `depth` leading axes (steps of scans).

    Attributes:
      kind: "transpose", "reshape", "reverse", "broadcast" or "cast".
      shape: shape of what goes in, without the leading axes.
      detail: the permutation, the new shape, the axes, `(new shape, where each axis
        goes)`, or the new dtype.
      depth: number of leading axes that it leaves alone.
    """

    kind: str
    shape: tuple[int, ...]
    detail: Any
    depth: int = 0

    @property
    def is_isometric(self) -> bool:
        """Whether undoing it keeps the norm."""
        return self.kind != "broadcast"

    def apply(self, value: jax.Array) -> jax.Array:
        """Rearrange a weight."""
        lead = self.depth
        kept = tuple(range(lead))
        if self.kind == "cast":
            return value.astype(self.detail)
        if self.kind == "transpose":
            return jnp.transpose(value, (*kept, *(lead + i for i in self.detail)))
        if self.kind == "reshape":
            return value.reshape(*value.shape[:lead], *self.detail)
        if self.kind == "reverse":
            return jnp.flip(value, [lead + axis for axis in self.detail])
        shape, axes = self.detail
        shape = (*value.shape[:lead], *shape)
        return jax.lax.broadcast_in_dim(
            value, shape, (*kept, *(lead + axis for axis in axes))
        )

    def undo(self, grad: jax.Array, lead: int) -> jax.Array:
        """Send a gradient back, behind `lead` more leading axes than `depth`.

        Gradients are measured and summed in float32 at least: a cast is not undone.
        """
        if self.kind == "cast":
            return grad
        lead += self.depth
        kept = tuple(range(lead))
        if self.kind == "transpose":
            order = (*kept, *(lead + int(i) for i in np.argsort(self.detail)))
            return jnp.transpose(grad, order)
        if self.kind == "reverse":
            return jnp.flip(grad, [lead + axis for axis in self.detail])
        if self.kind == "broadcast":
            shape, axes = self.detail
            grad = sum_axes(grad, _broadcast_axes(self.shape, shape, axes, lead))
        return grad.reshape(*grad.shape[:lead], *self.shape)


def view_of(primitive: str, params: dict[str, Any], shape: Any) -> View | None:
    """Return what an equation does to its operand, or `None` if it is no view."""
    shape = tuple(shape)
    if primitive == "transpose":
        return View("transpose", shape, tuple(params["permutation"]))
    if primitive == "reshape" and params.get("dimensions") is None:
        return View("reshape", shape, tuple(params["new_sizes"]))
    if primitive == "squeeze":
        gone = {axis % len(shape) for axis in params["dimensions"]}
        kept = tuple(n for axis, n in enumerate(shape) if axis not in gone)
        return View("reshape", shape, kept)
    if primitive == "broadcast_in_dim":
        new, axes = tuple(params["shape"]), tuple(params["broadcast_dimensions"])
        if math.prod(new) == math.prod(shape):
            return View("reshape", shape, new)
        return View("broadcast", shape, (new, axes))
    if primitive == "rev":
        return View("reverse", shape, tuple(params["dimensions"]))
    if primitive == "convert_element_type":
        return View("cast", shape, params["new_dtype"])
    if primitive in ("copy", "copy_p"):
        return View("reshape", shape, shape)
    return None


def sum_axes(value: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Sum over axes; neighbours are joined first, which XLA sums faster on CPUs."""
    kept = [n for axis, n in enumerate(value.shape) if axis not in axes]
    runs: list[tuple[bool, int]] = []
    for axis, n in enumerate(value.shape):
        summed = axis in axes
        if runs and runs[-1][0] == summed:
            runs[-1] = (summed, runs[-1][1] * n)
        else:
            runs.append((summed, n))
    joined = value.reshape([n for _, n in runs])
    places = tuple(i for i, (summed, _) in enumerate(runs) if summed)
    return jnp.sum(joined, axis=places).reshape(kept)


def _broadcast_axes(
    shape: tuple[int, ...], new: tuple[int, ...], axes: tuple[int, ...], lead: int
) -> tuple[int, ...]:
    """Return the axes of a gradient that a broadcast made."""
    source = dict(zip(axes, shape, strict=True))
    grown = [axis for axis, n in enumerate(new) if source.get(axis, 1) != n]
    added = [axis for axis in range(len(new)) if axis not in source]
    return tuple(sorted({lead + axis for axis in (*grown, *added)}))
