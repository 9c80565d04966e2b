"""Sums into rows of a table: what a look-up leaves behind."""

import dataclasses

import jax
import jax.numpy as jnp

from dpjax.clipping.forms import measuring
from dpjax.clipping.forms.formed import Formed
from dpjax.clipping.forms.layout import Layout
from dpjax.clipping.forms.measuring import Norm, weighted, working
from dpjax.clipping.forms.outer import HIGHEST, Outer, joined_positions
from dpjax.clipping.tape.guard import unmarked


@dataclasses.dataclass(frozen=True)
class Rows:
    """Sums of vectors into rows of a table.

    Attributes:
      index: rows looked up, `(batch, positions)`, integers.
      values: `(batch, positions, columns)`, with marks for what was not finite; zero
        where nothing was looked up.
      layout: where rows and columns are in the table; a single group.
    """

    index: jax.Array
    values: jax.Array
    layout: Layout

    @property
    def is_better_formed(self) -> bool:
        """Whether the table is smaller than the matrix of equal indices."""
        return self.layout.size(self.layout.rows) * 2 <= self.index.shape[1]

    def norm(self) -> Norm:
        """Return the root of sum over t, s with the same row of value_t . value_s."""
        values = working(self.values)
        same = self.index[:, :, None] == self.index[:, None, :]
        summed = jnp.einsum(
            "bts,bsn->btn", same.astype(values.dtype), values, precision=HIGHEST
        )
        squared = measuring.summed_in_turn(summed * values, (2, 1))
        by_position = measuring.norm(values, -1)[:, None]
        ones = jnp.ones_like(by_position)
        length = values.shape[1] + values.shape[2]
        return measuring.of_products(squared, by_position, ones, length)

    def longest(self) -> jax.Array:
        """Return sum over t of |value_t|."""
        return jnp.sum(measuring.longest(self.values, -1), axis=1)

    def weighted_sum(self, weights: jax.Array) -> jax.Array:
        """Add the weighted values to the rows of one table."""
        values = weighted(self.values, weights)
        index = self.index.reshape(self.index.size)
        return self.layout.to_weight(self._table(index, joined_positions(values)))

    def formed(self) -> Formed:
        """Return one table an example."""
        tables = jax.vmap(self._table)(self.index, working(unmarked(self.values)))
        return Formed(tables, self.layout)

    def _table(self, index: jax.Array, values: jax.Array) -> jax.Array:
        rows = self.layout.size(self.layout.rows)
        table = jnp.zeros((rows, values.shape[-1]), values.dtype)
        return table.at[index].add(values)[None]


@dataclasses.dataclass(frozen=True)
class Table:
    """The gradients of a table that is both looked up and multiplied with.

    Tied input and output embeddings, say: the norm of a sum needs one inner product
    more than the norms of its parts.

    Attributes:
      looked_up: the look-ups.
      outer: the products, in one group; their rows are those of the table.
    """

    looked_up: Rows
    outer: Outer

    is_better_formed = False

    def norm(self) -> Norm:
        """Return the root of |a|^2 + |b|^2 + 2 a . b."""
        first, second = self.looked_up.norm(), self.outer.norm()
        squares = jnp.square(first.value) + jnp.square(second.value)
        squared = jnp.maximum(squares + 2 * self._inner_product(), 0)
        slack = jnp.square(first.bound) + jnp.square(second.bound) - squares
        chain = measuring.rounding(8, squared) * squares
        return Norm(jnp.sqrt(squared), jnp.sqrt(squared + 2 * slack + chain))

    def longest(self) -> jax.Array:
        """Return |a| + |b|."""
        return self.looked_up.longest() + self.outer.longest()

    def weighted_sum(self, weights: jax.Array) -> jax.Array:
        """Return the sum of both parts' sums."""
        return self.looked_up.weighted_sum(weights) + self.outer.weighted_sum(weights)

    def formed(self) -> Formed:
        """Write both out."""
        parts = (self.looked_up.formed().formed(), self.outer.formed().formed())
        return Formed(parts[0].value + parts[1].value)

    def _inner_product(self) -> jax.Array:
        """Return each example's inner product of the two parts `(batch,)`."""
        left, right = working(self.outer.left)[:, 0], working(self.outer.right)[:, 0]
        values = working(self.looked_up.values)
        at_rows = jax.vmap(lambda x, i: x[:, i])(left, self.looked_up.index)
        products = jnp.einsum("btn,bsn->bst", values, right, precision=HIGHEST)
        return measuring.summed_in_turn(at_rows * products, (2, 1))
