"""What a convolution leaves behind: an outer product over shifted inputs.

The gradient of a kernel at offset o is the sum over positions t of x[t * stride + o]
times dL/dy[t]. Written out, that is one batched matrix product over the shifted inputs
side by side, made for so few examples at a time that they stay in the cache. Late
layers have so few positions that their norms are cheaper from two Gram matrices. The
one of the shifted inputs needs no shifted inputs: <patch t, patch s> is the sum over
offsets of the inner products of pixels, shifted along the diagonal.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from dpjax import _manual
from dpjax.clipping.forms import measuring, patches
from dpjax.clipping.forms.compact import compact
from dpjax.clipping.forms.formed import Formed
from dpjax.clipping.forms.layout import Layout
from dpjax.clipping.forms.measuring import HIGHEST, Squares, Term, weighted, working
from dpjax.clipping.forms.outer import joined_positions
from dpjax.clipping.forms.patches import Patches
from dpjax.clipping.forms.window import Window
from dpjax.clipping.tape.guard import has_mark

_CACHE, _FAR_CACHE = 2**19, 2**21
"""Numbers of shifted inputs that a CPU works on at a time."""

_SHIFT = 48
"""Multiply-adds in the time in which one number of a Gram matrix is shifted."""

_SMALL_KERNEL = 2**16
"""Numbers of a kernel's gradient that a CPU keeps close by."""

_KEPT_CLOSE, _KEPT_FAR = 96, 320
"""Multiply-adds in the time in which one number of a gradient is kept for later."""


@dataclasses.dataclass(frozen=True)
class Convolution:
    """Gradients of a kernel with one group of features.

    Attributes:
      padded: padded inputs, `(batch, images, *spatial, inputs)`; they may hold what is
        not finite.
      right: cotangents, `(batch, images, *output, outputs)`, with marks.
      window: the geometry.
      layout: where rows (offsets, inputs) and columns are in the kernel.
    """

    padded: jax.Array
    right: jax.Array
    window: Window
    layout: Layout

    @property
    def is_better_formed(self) -> bool:
        """Whether writing the gradients out costs less than working without."""
        positions = math.prod(self.right.shape[1:-1])
        kernel = self.layout.size(self.layout.rows) * self.right.shape[-1]
        kept = _KEPT_CLOSE if kernel <= _SMALL_KERNEL else _KEPT_FAR
        return kept * kernel < min(positions * kernel, self._gram_cost)

    def squares(self) -> Squares:
        """Return the squared norms by whichever way is shorter.

        Either from the Gram matrices of patches and cotangents, or from the products,
        which are forgotten piece by piece.
        """
        positions = math.prod(self.right.shape[1:-1])
        rows = self.layout.size(self.layout.rows)
        columns = self.right.shape[-1]
        by_products = positions * rows * columns < self._gram_cost
        parts = self._squared_products() if by_products else self._squared_gram()
        by_position = measuring.sum_of_squares(_positions(self.right))[:, None]
        length = positions + rows + columns
        found = measuring.of_products(parts, self._by_patch(), by_position, length)
        # Elements of a product may be too small to be squared, each of them.
        lost = rows * columns * float(jnp.finfo(by_position.dtype).tiny)
        return found._replace(absolute=found.absolute + lost)

    def terms(self) -> list[Term]:
        """Return the root of the number of offsets times |x| |dL/dy|."""
        return [Term(math.sqrt(len(self.window.offsets)), (self.padded, self.right))]

    def weighted_sum(self, weights: jax.Array) -> jax.Array:
        """Return the weighted sum by products over pieces of the batch."""
        right = _positions(self.right)
        padded = weighted(self.padded, weights)
        at_once, in_turn = (
            functools.partial(_total, self.window, way)
            for way in (patches.at_once, patches.in_turn)
        )
        total = jax.lax.platform_dependent(
            padded,
            right,
            cpu=functools.partial(_added_up, in_turn, self._piece(_FAR_CACHE)),
            default=at_once,
        )
        return self.layout.swapped().to_weight(total[None])

    def formed(self) -> Formed:
        """Return the gradients, `(batch, 1, outputs, offsets * inputs)`."""
        products = self._piece_by_piece(lambda products: products)
        return Formed(products[:, None], self.layout.swapped(), self._bad)

    def _squared_products(self) -> jax.Array:
        """Return parts of the squared norms, of products that are not kept."""
        parts = self._piece_by_piece(measuring.squares_in_parts)
        return jnp.where(self._bad[:, None], jnp.inf, parts)

    def _piece_by_piece(self, finish: Any) -> jax.Array:
        """Apply `finish` to the products, on a CPU to pieces that stay in the cache."""

        def at_once(padded: jax.Array, right: jax.Array) -> jax.Array:
            return finish(_products(self.window, patches.at_once, padded, right))

        def in_turn(padded: jax.Array, right: jax.Array) -> jax.Array:
            return finish(_products(self.window, patches.in_turn, padded, right))

        in_pieces = functools.partial(_in_pieces, in_turn, self._piece(_CACHE))
        padded, right = working(self.padded), _positions(self.right)
        return jax.lax.platform_dependent(padded, right, cpu=in_pieces, default=at_once)

    @property
    def _bad(self) -> jax.Array:
        """Which examples have marks among their cotangents, `(batch,)`."""
        return has_mark(self.right)

    def _squared_gram(self) -> jax.Array:
        """Return parts of the squared norms, from the two Gram matrices."""
        right = _positions(self.right)
        by_right = jnp.einsum("btn,bsn->bts", right, right, precision=HIGHEST)
        return jnp.sum(self._patch_gram() * by_right, axis=-1)

    def _by_patch(self) -> jax.Array:
        """Return the squared norms of patches, `(batch, 1, positions)`."""
        squares = measuring.sum_of_squares(self.padded)
        offsets = self.window.offsets
        total: Any = sum(self.window.shifted(squares, o, 2) for o in offsets)
        positions = math.prod(self.right.shape[1:-1])
        return total.reshape(squares.shape[0], 1, positions)

    @property
    def _gram_cost(self) -> int:
        """Multiply-adds an example for the Gram matrices."""
        positions = math.prod(self.right.shape[1:-1])
        pixels = math.prod(self.padded.shape[1:-1])
        inputs, columns = self.padded.shape[-1], self.right.shape[-1]
        shifts = _SHIFT * len(self.window.offsets)
        return pixels**2 * inputs + positions**2 * (columns + shifts)

    def _piece(self, cache: int) -> int:
        """Return the largest divisor of the batch whose shifted inputs fit a cache."""
        batch, positions = self.padded.shape[0], math.prod(self.right.shape[1:-1])
        one = max(1, positions * self.layout.size(self.layout.rows))
        fitting = max(1, min(batch, cache // one))
        return next(n for n in range(fitting, 0, -1) if batch % n == 0)

    def _patch_gram(self) -> jax.Array:
        """Return the inner products of patches, `(batch, positions, positions)`."""
        batch, images, *spatial, inputs = self.padded.shape
        pixels = images * math.prod(spatial)
        x = working(self.padded).reshape(batch, pixels, inputs)
        gram = jnp.einsum("bpi,bqi->bpq", x, x, precision=HIGHEST)
        source = compact(gram)

        def add(total: jax.Array, offset: jax.Array) -> tuple:
            pairs = source.reshape(batch, images, *spatial, images, *spatial)
            part = self.window.shifted_by(pairs, offset, 2)
            part = self.window.shifted_by(part, offset, 3 + len(spatial))
            return total + compact(part), None

        shape = (batch, images, *self.window.output, images, *self.window.output)
        zeros = compact(_manual.zeros(gram, shape, gram.dtype))
        total, _ = jax.lax.scan(add, zeros, jnp.asarray(self.window.offsets))
        positions = images * math.prod(self.window.output)
        return total.reshape(batch, positions, positions)


def _positions(right: jax.Array) -> jax.Array:
    """Return the cotangents as `(batch, positions, outputs)`."""
    positions = math.prod(right.shape[1:-1])
    return working(right).reshape(right.shape[0], positions, right.shape[-1])


def _products(
    window: Window, way: Patches, padded: jax.Array, right: jax.Array
) -> jax.Array:
    """Return `(batch, outputs, offsets * inputs)`."""
    left = _positions(way(window, padded))
    return jnp.einsum("btn,btm->bnm", right, left, precision=HIGHEST)


def _total(
    window: Window, way: Patches, padded: jax.Array, right: jax.Array
) -> jax.Array:
    """Return the sum of `_products` over the batch."""
    left, right = map(joined_positions, (way(window, padded), right))
    return jnp.einsum("tn,tm->nm", right, left, precision=HIGHEST)


def _in_pieces(run: Any, piece: int, padded: jax.Array, right: jax.Array) -> jax.Array:
    """Apply `run` to `piece` examples at a time."""
    batch = padded.shape[0]
    if batch <= piece:
        return run(padded, right)
    of_piece, pieces = _of_pieces(run, piece, padded, right)
    if piece == 1:
        return jax.lax.map(lambda parts: of_piece(*parts)[0], pieces)
    found = jax.lax.map(lambda parts: of_piece(*parts), pieces)
    return found.reshape(batch, *found.shape[2:])


def _added_up(run: Any, piece: int, padded: jax.Array, right: jax.Array) -> jax.Array:
    """Add up `run` of `piece` examples at a time."""
    if padded.shape[0] <= piece:
        return run(padded, right)
    of_piece, pieces = _of_pieces(run, piece, padded, right)
    first = jax.eval_shape(of_piece, *(x[0] for x in pieces))
    zero = _manual.zeros(first, first.shape, first.dtype)
    total, _ = jax.lax.scan(lambda t, parts: (t + of_piece(*parts), None), zero, pieces)
    return total


def _of_pieces(run: Any, piece: int, *values: jax.Array) -> tuple[Any, Any]:
    """Split a batch into pieces, of which there are several.

    Returns:
      `run` as a function of what a loop over the pieces takes, and what it takes them
      from: compact arrays, since a loop copies others.
    """
    shapes = [(piece, *x.shape[1:]) for x in values]

    def of_piece(*parts: jax.Array) -> jax.Array:
        return run(*(x.reshape(shape) for x, shape in zip(parts, shapes, strict=True)))

    pairs = zip(values, shapes, strict=True)
    split = (x.reshape(len(x) // piece, *shape) for x, shape in pairs)
    return of_piece, tuple(map(compact, split))
