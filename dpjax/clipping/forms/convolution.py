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
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.clipping.forms import measuring
from dpjax.clipping.forms.formed import Formed
from dpjax.clipping.forms.layout import Layout
from dpjax.clipping.forms.measuring import Norm, weighted, working
from dpjax.clipping.forms.outer import HIGHEST, TRAFFIC
from dpjax.clipping.tape.guard import is_marked

_CACHE = 2**19
"""Numbers of shifted inputs that a CPU works on at a time."""


@dataclasses.dataclass(frozen=True)
class Window:
    """The geometry of a convolution.

    Attributes:
      kernel: spatial shape of the kernel.
      strides: steps between positions of the output.
      dilation: steps between elements of the kernel.
      output: spatial shape of the output.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    output: tuple[int, ...]

    @property
    def offsets(self) -> list[tuple[int, ...]]:
        """The offset of every element of the kernel, in row-major order."""
        steps = zip(self.kernel, self.dilation, strict=True)
        return list(itertools.product(*(range(0, n * d, d) for n, d in steps)))

    def shifted(self, x: jax.Array, offset: tuple[int, ...], first: int) -> jax.Array:
        """Return what the kernel's element at `offset` meets, at every position.

        Args:
          x: padded inputs, spatial axes from `first` on.
          offset: one of `offsets`.
          first: the first spatial axis.
        """
        start, limit, step = [0] * x.ndim, list(x.shape), [1] * x.ndim
        axes = zip(offset, self.output, self.strides, strict=True)
        for axis, (begin, count, stride) in enumerate(axes, first):
            start[axis] = begin
            limit[axis] = begin + (count - 1) * stride + 1
            step[axis] = stride
        return jax.lax.slice(x, start, limit, step)


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
        positions, pixels = (
            math.prod(self.right.shape[1:-1]),
            math.prod(self.padded.shape[1:-1]),
        )
        inputs, columns = self.padded.shape[-1], self.right.shape[-1]
        offsets = len(self.window.offsets)
        without = pixels**2 * inputs + positions**2 * (columns + 8 * offsets)
        return TRAFFIC * offsets * inputs * columns < without

    def norm(self) -> Norm:
        """Return the norms from the Gram matrices of patches and cotangents."""
        by_patch = self._patch_gram()
        left = jnp.sqrt(jnp.diagonal(by_patch, axis1=1, axis2=2))[:, None]
        right = _positions(self.right)
        by_right = jnp.einsum("btn,bsn->bts", right, right, precision=HIGHEST)
        squared = jnp.sum(jnp.sum(by_patch * by_right, axis=-1), axis=-1)
        length = sum(right.shape[1:]) + self.layout.size(self.layout.rows)
        by_position = measuring.norm(right, -1)[:, None]
        return measuring.of_products(squared, left, by_position, length)

    def longest(self) -> jax.Array:
        """Return at most sqrt(offsets * positions) |x| |dL/dy|."""
        count = len(self.window.offsets)
        left = measuring.longest(self.padded, tuple(range(1, self.padded.ndim)))
        right = measuring.longest(self.right, tuple(range(1, self.right.ndim)))
        return math.sqrt(count) * left * right

    def weighted_sum(self, weights: jax.Array) -> jax.Array:
        """Return the weighted sum by the convolution's own derivative."""
        joined = (math.prod(self.padded.shape[:2]),)
        padded = weighted(self.padded, weights)
        padded = padded.reshape(*joined, *padded.shape[2:])
        right = working(self.right).reshape(*joined, *self.right.shape[2:])
        inputs, columns = padded.shape[-1], right.shape[-1]
        kernel = jnp.zeros((*self.window.kernel, inputs, columns), padded.dtype)
        _, pull = jax.vjp(functools.partial(_convolve, padded, self.window), kernel)
        total = pull(right)[0].reshape(1, -1, columns)
        return self.layout.to_weight(total)

    def formed(self) -> Formed:
        """Return the gradients, `(batch, 1, outputs, offsets * inputs)`."""
        run = functools.partial(_products, self.window)
        products = jax.lax.platform_dependent(
            working(self.padded),
            _positions(self.right),
            cpu=functools.partial(_in_pieces, run, self._piece),
            default=run,
        )
        bad = jnp.any(is_marked(self.right), axis=tuple(range(1, self.right.ndim)))
        return Formed(products[:, None], self.layout.swapped(), bad)

    @property
    def _piece(self) -> int:
        """The largest divisor of the batch whose shifted inputs fit the cache."""
        batch, images = self.padded.shape[:2]
        rows = self.layout.size(self.layout.rows)
        one = images * math.prod(self.window.output) * rows
        fitting = max(1, _CACHE // max(one, 1))
        return max(
            n for n in range(1, max(batch, 1) + 1) if batch % n == 0 and (n <= fitting)
        )

    def _patch_gram(self) -> jax.Array:
        """Return the inner products of patches, `(batch, positions, positions)`."""
        batch, images, *spatial, inputs = self.padded.shape
        pixels = images * math.prod(spatial)
        x = working(self.padded).reshape(batch, pixels, inputs)
        gram = jnp.einsum("bpi,bqi->bpq", x, x, precision=HIGHEST)
        gram = gram.reshape(batch, images, *spatial, images, *spatial)
        total: Any = 0
        for offset in self.window.offsets:
            part = self.window.shifted(gram, offset, 2)
            total = total + self.window.shifted(part, offset, 3 + len(spatial))
        positions = images * math.prod(self.window.output)
        return total.reshape(batch, positions, positions)


def _positions(right: jax.Array) -> jax.Array:
    """Return the cotangents as `(batch, positions, outputs)`."""
    positions = math.prod(right.shape[1:-1])
    return working(right).reshape(right.shape[0], positions, right.shape[-1])


def _products(window: Window, padded: jax.Array, right: jax.Array) -> jax.Array:
    """Return `(batch, outputs, offsets * inputs)`."""
    shifted = [window.shifted(padded, offset, 2) for offset in window.offsets]
    patches = jnp.concatenate(shifted, axis=-1)
    patches = patches.reshape(*right.shape[:2], patches.shape[-1])
    return jnp.einsum("btn,btm->bnm", right, patches, precision=HIGHEST)


def _in_pieces(run: Any, piece: int, padded: jax.Array, right: jax.Array) -> jax.Array:
    """Apply `run` to `piece` examples at a time."""
    batch = padded.shape[0]
    if batch == piece:
        return run(padded, right)
    pieces = jax.tree.map(
        lambda x: x.reshape(batch // piece, piece, *x.shape[1:]), (padded, right)
    )
    products = jax.lax.map(lambda pair: run(*pair), pieces)
    return products.reshape(batch, *products.shape[2:])


def _convolve(padded: jax.Array, window: Window, kernel: jax.Array) -> jax.Array:
    """Convolve `(images, *spatial, inputs)` with `(*kernel, inputs, outputs)`."""
    count = len(window.kernel)
    spatial = tuple(range(1, count + 1))
    features = (0, count + 1, *spatial)
    numbers = jax.lax.ConvDimensionNumbers(
        features, (count + 1, count, *range(count)), features
    )
    ends = zip(
        window.kernel, window.dilation, window.output, window.strides, strict=True
    )
    needed = [(n - 1) * d + 1 + (out - 1) * s for n, d, out, s in ends]
    used = jax.lax.slice(
        padded, [0] * padded.ndim, [padded.shape[0], *needed, padded.shape[-1]]
    )
    return jax.lax.conv_general_dilated(
        used,
        kernel,
        window_strides=window.strides,
        padding="VALID",
        rhs_dilation=window.dilation,
        dimension_numbers=numbers,
        precision=HIGHEST,
    )
