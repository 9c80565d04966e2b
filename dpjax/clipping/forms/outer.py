"""Sums of outer products: what a matrix product leaves behind."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from dpjax.clipping.forms import measuring
from dpjax.clipping.forms.formed import Formed
from dpjax.clipping.forms.layout import Layout
from dpjax.clipping.forms.measuring import HIGHEST, Squares, Term, weighted, working
from dpjax.clipping.tape.guard import has_mark

TRAFFIC = 32
"""Multiply-adds in the time in which one number is written and read again."""


@dataclasses.dataclass(frozen=True)
class Outer:
    """Sums of outer products over positions.

    The gradient of an example is, for each group g, sum over t of left[g, t] times
    right[g, t] transposed: for y = x @ w, left is x and right is dL/dy (Goodfellow
    2015 for one position; Lee and Kifer 2021, Li et al. 2022 for many).

    Attributes:
      left: `(batch, groups, positions, rows)`.
      right: `(batch, groups, positions, columns)`.
      layout: where groups, rows and columns are in the weight.
      raw: which side may hold what is not finite, "left", "right" or "neither"; others
        have marks in its place (see `tape.guard`).
    """

    left: jax.Array
    right: jax.Array
    layout: Layout
    raw: str = "left"

    def squares(
        self, left_gram: jax.Array | None = None, right_gram: jax.Array | None = None
    ) -> Squares:
        """Return sum over t, s of (left_t . left_s)(right_t . right_s).

        Args:
          left_gram: that of the left side, if it is known already.
          right_gram: that of the right side.
        """
        length = self.left.shape[2] + self.left.shape[3] + self.right.shape[3]
        by_left, by_right = map(measuring.sum_of_squares, (self.left, self.right))
        if self.left.shape[2] == 1:
            return measuring.of_products(None, by_left, by_right, length)
        left_gram = self.left_gram if left_gram is None else left_gram
        right_gram = self.right_gram if right_gram is None else right_gram
        squared = squared_by_grams(left_gram, right_gram)
        return measuring.of_products(squared, by_left, by_right, length)

    @functools.cached_property
    def left_gram(self) -> jax.Array:
        """The inner products of left sides, `(batch, groups, positions, positions)`."""
        return _gram(working(self.left))

    @functools.cached_property
    def right_gram(self) -> jax.Array:
        """Those of right sides, in the same shape."""
        return _gram(working(self.right))

    def terms(self) -> list[Term]:
        """Return |left| |right|: the Cauchy-Schwarz inequality."""
        return [Term(1.0, (self.left, self.right))]

    def weighted_sum(self, weights: jax.Array) -> jax.Array:
        """Return the weighted sum by one product over examples and positions."""
        left, right = working(self.left), working(self.right)
        if self.raw == "left":
            left = weighted(left, weights)
        else:
            right = weighted(right, weights)
        if left.shape[1] == 1:
            left, right = (joined_positions(x) for x in (left, right))
            total = jnp.einsum("tm,tn->mn", left, right, precision=HIGHEST)[None]
        else:
            total = jnp.einsum("bgtm,bgtn->gmn", left, right, precision=HIGHEST)
        return self.layout.to_weight(total)

    def formed(self) -> Formed:
        """Return the products, by one batched matrix product."""
        if self.left.shape[3] > self.right.shape[3]:
            # The short side first: faster by up to a half on CPUs.
            return self.swapped().formed()
        left, right = working(self.left), working(self.right)
        products = jnp.einsum("bgtm,bgtn->bgmn", left, right, precision=HIGHEST)
        sides = {"left": self.left, "right": self.right}
        bad = [has_mark(side) for name, side in sides.items() if name != self.raw]
        return Formed(products, self.layout, functools.reduce(jnp.logical_or, bad))

    def swapped(self) -> "Outer":
        """Return the same gradients with rows and columns exchanged."""
        raw = {"left": "right", "right": "left"}.get(self.raw, self.raw)
        return Outer(self.right, self.left, self.layout.swapped(), raw)

    @property
    def is_better_formed(self) -> bool:
        """Whether writing the gradients out costs less than working without."""
        positions, rows = self.left.shape[2:]
        columns = self.right.shape[3]
        if positions == 1:
            return False
        return TRAFFIC * rows * columns < positions**2 * (rows + columns)


def joined_positions(value: jax.Array) -> jax.Array:
    """Join all axes but the last."""
    return value.reshape(math.prod(value.shape[:-1]), value.shape[-1])


def squared_by_grams(left: jax.Array, right: jax.Array) -> jax.Array:
    """Return parts of the squared norms, `(batch, groups * positions)`."""
    parts = jnp.sum(left * right, axis=-1)
    return parts.reshape(left.shape[0], math.prod(left.shape[1:3]))


def _gram(side: jax.Array) -> jax.Array:
    return jnp.einsum("bgtm,bgsm->bgts", side, side, precision=HIGHEST)
