"""A part of a product: the gradients of a weight that met the data with others."""

import dataclasses

import jax

from dpjax.clipping.forms.form import Form
from dpjax.clipping.forms.formed import Formed
from dpjax.clipping.forms.measuring import Squares, Term
from dpjax.clipping.forms.outer import Outer
from dpjax.clipping.forms.recurrent import Recurrent


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of sums of outer products, along one axis of the weight.

    It is cut out where it is used, and not before: a copy for each use is short-lived.

    Attributes:
      whole: the gradients of the concatenated weight.
      axis: the axis of the weight along which the part lies.
      start: where it begins.
      size: how long it is.
    """

    whole: Outer | Recurrent
    axis: int
    start: int
    size: int

    @classmethod
    def make(cls, whole: Form, axis: int, start: int, size: int) -> "Part | None":
        """Return a part, or `None` where none can be cut out."""
        if not isinstance(whole, Outer | Recurrent):
            return None
        layout = whole.layout
        if layout.shape != layout.weight or (axis,) not in (
            layout.rows,
            layout.columns,
        ):
            return None
        return cls(whole, axis, start, size)

    @property
    def is_better_formed(self) -> bool:
        """Whether writing the gradients out costs less than working without."""
        return self.cut().is_better_formed

    def squares(self) -> Squares:
        """Return the squared norms, with one Gram matrix for what all parts share."""
        part = self.cut()
        if part.left is self.whole.left:
            return part.squares(left_gram=self.whole.left_gram)
        return part.squares(right_gram=self.whole.right_gram)

    def terms(self) -> list[Term]:
        """Return those of the whole: no part is longer."""
        return self.whole.terms()

    def weighted_sum(self, weights: jax.Array) -> jax.Array:
        """Return the weighted sum, by a product of the part alone."""
        return self.cut().weighted_sum(weights)

    def formed(self) -> Formed:
        """Write the gradients out."""
        return self.cut().formed()

    def as_outer(self) -> Outer:
        """Return the same gradients with examples first."""
        part = self.cut()
        return part.as_outer() if isinstance(part, Recurrent) else part

    def cut(self) -> Outer | Recurrent:
        """Return the part as products of its own."""
        whole, layout = self.whole, self.whole.layout.window(self.axis, self.size)
        where = slice(self.start, self.start + self.size)
        if layout.rows == (self.axis,):
            left = whole.left[..., where]
            return dataclasses.replace(whole, left=left, layout=layout)
        right = whole.right[..., where]
        return dataclasses.replace(whole, right=right, layout=layout)

    def cut_from(self, total: jax.Array) -> jax.Array:
        """Return the part of a sum, shaped like the concatenated weight."""
        stop = self.start + self.size
        return jax.lax.slice_in_dim(total, self.start, stop, axis=self.axis)
