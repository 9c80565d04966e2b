"""Sums into rows of a table: what a look-up leaves behind."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from dpjax import _manual
from dpjax.clipping.forms import measuring
from dpjax.clipping.forms.formed import Formed
from dpjax.clipping.forms.layout import Layout
from dpjax.clipping.forms.measuring import HIGHEST, Squares, Term, weighted, working
from dpjax.clipping.forms.outer import Outer, joined_positions
from dpjax.clipping.tape.guard import unmarked

_ROOM = 16
"""Examples for each position whose row came before, where these are few."""

_TOGETHER = 16
"""Positions that are counted by one kernel."""


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

    @property
    def _meets_seldom(self) -> bool:
        """Whether few positions would look up a row again, if rows came at random."""
        positions = self.index.shape[1]
        return self.layout.size(self.layout.rows) > 2 * _ROOM * positions**2

    def squares(self) -> Squares:
        """Return the sum over t, s with the same row of value_t . value_s."""
        values = working(self.values)
        met = _times_met(self.index)
        by_position = measuring.sum_of_squares(values)
        if self._meets_seldom:
            parts = by_position + _seldom_met(self.index, met, values)
        else:
            parts = by_position + _met(self.index, values)
        by_position = by_position[:, None]
        length = values.shape[1] + values.shape[2]
        found = measuring.of_products(parts, by_position, by_position, length)
        # Rows are added up one after the other. Where m equal vectors meet in a row,
        # their rounding adds up too, to m ulp of a square that is m^2 times one's.
        eps = float(jnp.finfo(values.dtype).eps)
        squared = jnp.square(met.astype(values.dtype))
        return found._replace(right=1 + (2 * eps / found.relative) * squared)

    def terms(self) -> list[Term]:
        """Return the root of positions times |values|."""
        return [Term(math.sqrt(self.index.shape[1]), (self.values,))]

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

    def squares(self) -> Squares:
        """Return |a|^2 + |b|^2 + 2 a . b."""
        parts = (self.looked_up.squares(), self.outer.squares())
        values, both_bounds = measuring.added_up(parts)
        bounds = jnp.sum(both_bounds, axis=0)
        value = values + 2 * self._inner_product()
        # What the inner product lacks is no more than what both squares lack.
        chain = 1 + measuring.rounding(8, values)
        lacking = 2 * bounds * chain - 2 * values
        return Squares(value[:, None], lacking[:, None], None, 1.0, 0.0, 0.0)

    def terms(self) -> list[Term]:
        """Return those of both."""
        return self.looked_up.terms() + self.outer.terms()

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
        return jnp.sum(at_rows * products, axis=(1, 2))


def _times_met(index: jax.Array) -> jax.Array:
    """Count for each position those of the same row, itself among them.

    One position after the other: their matrix would be the largest array of a step.
    """
    positions = index.shape[1]

    def add(position: jax.Array, met: jax.Array) -> jax.Array:
        own = jax.lax.dynamic_slice_in_dim(index, position, 1, axis=1)
        return met + (index == own)

    none = _manual.zeros(index, index.shape, jnp.int32)
    together = min(_TOGETHER, max(1, positions))
    return jax.lax.fori_loop(0, positions, add, none, unroll=together)


def _met(index: jax.Array, values: jax.Array) -> jax.Array:
    """Return for each position t the sum of value_t . value_s over other s of its row.

    Args:
      index: rows, `(batch, positions)`.
      values: `(batch, positions, columns)`.
    """
    others = index[:, :, None] == index[:, None, :]
    others &= ~jnp.eye(index.shape[1], dtype=bool)
    summed = jnp.einsum(
        "bts,bsn->btn", others.astype(values.dtype), values, precision=HIGHEST
    )
    return jnp.sum(summed * values, axis=-1)


def _seldom_met(index: jax.Array, met: jax.Array, values: jax.Array) -> jax.Array:
    """Return the same by way of the positions that share a row, where they are few.

    Args:
      index: rows, `(batch, positions)`.
      met: positions that have the row of t, t itself among them: `(batch, positions)`.
      values: `(batch, positions, columns)`.
    """
    batch, positions = index.shape
    shared = met > 1
    room = min(max(2, batch // _ROOM), shared.size)

    def few() -> jax.Array:
        # Floats: to order integers takes many times as long on a CPU.
        flags, flat = jax.lax.top_k(shared.ravel().astype(jnp.float32), room)
        example, position = flat // positions, flat % positions
        own = index[example, position][:, None] == index[example]
        others = own & (jnp.arange(positions) != position[:, None])
        summed = jnp.einsum(
            "ks,ksn->kn",
            (others & (flags > 0)[:, None]).astype(values.dtype),
            values[example],
            precision=HIGHEST,
        )
        found = jnp.sum(summed * values[example, position], axis=-1)
        return (
            jnp.zeros((batch, positions), values.dtype).at[example, position].add(found)
        )

    def many() -> jax.Array:
        # Piece by piece: else what is seldom needed would be a step's largest array.
        def piece(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
            return _met(*pair)

        most = max(1, min(_ROOM, batch))
        size = next(n for n in range(most, 0, -1) if batch % n == 0)
        pieces = (x.reshape(batch // size, size, *x.shape[1:]) for x in (index, values))
        return jax.lax.map(piece, tuple(pieces)).reshape(batch, positions)

    return jax.lax.cond(jnp.sum(shared) <= room, few, many)
