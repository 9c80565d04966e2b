"""How the axes of a weight become the rows and columns of matrices."""

import dataclasses
import math

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the axes of a weight are grouped into a stack of matrices.

    Attributes:
      shape: shape of the weight; an axis may be split in several.
      groups: axes along which independent matrices are stacked.
      rows: axes that the rows of a matrix run over.
      columns: axes that the columns run over.
      weight: shape of the weight itself.
      stack: leading axes in front of it, from scans that step through it; the groups of
        a form run over them first.
    """

    shape: tuple[int, ...]
    groups: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    weight: tuple[int, ...]
    stack: tuple[int, ...] = ()

    def size(self, axes: tuple[int, ...]) -> int:
        """Return the number of elements along `axes`."""
        return math.prod(self.shape[axis] for axis in axes)

    def to_weight(self, matrices: jax.Array) -> jax.Array:
        """Turn `(..., groups, rows, columns)` into `(..., *stack, *weight)`."""
        lead = (*matrices.shape[:-3], *self.stack)
        order = (*self.groups, *self.rows, *self.columns)
        split = matrices.reshape(*lead, *(self.shape[axis] for axis in order))
        back = sorted(range(len(order)), key=order.__getitem__)
        kept = range(len(lead))
        moved = jnp.transpose(split, (*kept, *(len(lead) + axis for axis in back)))
        return moved.reshape(*lead, *self.weight)

    def swapped(self) -> "Layout":
        """Return the layout of the transposed matrices."""
        return dataclasses.replace(self, rows=self.columns, columns=self.rows)

    def window(self, axis: int, size: int) -> "Layout":
        """Return the layout of a part of the weight, `size` long along `axis`.

        No axis of the weight may be split.
        """
        assert self.shape == self.weight
        shape = (*self.weight[:axis], size, *self.weight[axis + 1 :])
        return dataclasses.replace(self, shape=shape, weight=shape)

    def transposed(self, permutation: tuple[int, ...]) -> "Layout | None":
        """Return the layout of a weight whose transpose has this one."""
        if self.shape != self.weight or self.stack:
            return None
        moved = {new: old for new, old in enumerate(permutation)}
        shape = tuple(self.weight[permutation.index(i)] for i in range(len(moved)))
        groups, rows, columns = (
            tuple(moved[axis] for axis in axes)
            for axes in (self.groups, self.rows, self.columns)
        )
        return Layout(shape, groups, rows, columns, shape)
