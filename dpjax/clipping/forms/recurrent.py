"""Sums of outer products over the steps of a scan: what a recurrent cell leaves behind.

A scan writes step after step, and within each the examples side by side. Arrays stay as
they were written, and only what needs an example's steps side by side, its two Gram
matrices, is given a copy: of the others, each as large as all gates at all steps, every
one costs a CPU as much as the sum itself.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from dpjax.clipping.forms import measuring
from dpjax.clipping.forms.formed import Formed
from dpjax.clipping.forms.layout import Layout
from dpjax.clipping.forms.measuring import HIGHEST, Squares, Term, times, working
from dpjax.clipping.forms.outer import Outer, squared_by_grams


@dataclasses.dataclass(frozen=True)
class Recurrent:
    """Sums of outer products over steps, with the steps first.

    Attributes:
      left: `(steps, batch, rows)`; it may hold what is not finite.
      right: `(steps, batch, columns)`, with marks (see `tape.guard`).
      layout: where rows and columns are in the weight.
    """

    left: jax.Array
    right: jax.Array
    layout: Layout

    @classmethod
    def make(cls, outer: Outer) -> "Recurrent":
        """Return gradients of one group, with the steps first."""
        left, right = (
            jnp.moveaxis(side[:, 0], 0, 1) for side in (outer.left, outer.right)
        )
        return cls(left, right, outer.layout)

    @property
    def is_better_formed(self) -> bool:
        """Whether writing the gradients out costs less than working without."""
        return self.as_outer().is_better_formed

    def squares(
        self, left_gram: jax.Array | None = None, right_gram: jax.Array | None = None
    ) -> Squares:
        """Return the squared norms, from Gram matrices; see `Outer.squares`."""
        left_gram = self.left_gram if left_gram is None else left_gram
        right_gram = self.right_gram if right_gram is None else right_gram
        value = squared_by_grams(left_gram, right_gram)
        by_left, by_right = (
            measuring.sum_of_squares(side).T[:, None]
            for side in (self.left, self.right)
        )
        length = len(self.left) + self.left.shape[2] + self.right.shape[2]
        return measuring.of_products(value, by_left, by_right, length)

    @functools.cached_property
    def left_gram(self) -> jax.Array:
        """The inner products of left sides, `(batch, 1, steps, steps)`."""
        return self.as_outer().left_gram

    @functools.cached_property
    def right_gram(self) -> jax.Array:
        """The inner products of right sides, `(batch, 1, steps, steps)`."""
        return self.as_outer().right_gram

    def terms(self) -> list[Term]:
        """Return |left| |right|: the Cauchy-Schwarz inequality."""
        return self.as_outer().terms()

    def weighted_sum(self, weights: jax.Array) -> jax.Array:
        """Return the weighted sum by one product over steps and examples."""
        left, right = times(self.left, weights[:, None]), working(self.right)
        # Steps and examples are not joined: examples may be spread over devices. An
        # einsum would sum over examples first, which copies both sides on a CPU.
        summed = (((0, 1), (0, 1)), ((), ()))
        total = jax.lax.dot_general(left, right, summed, precision=HIGHEST)
        return self.layout.to_weight(total[None])

    def formed(self) -> Formed:
        """Write the gradients out."""
        return self.as_outer().formed()

    def as_outer(self) -> Outer:
        """Return the same gradients with examples first."""
        left, right = (
            jnp.moveaxis(side, 1, 0)[:, None] for side in (self.left, self.right)
        )
        return Outer(left, right, self.layout)
