"""The geometry of a convolution."""

import dataclasses
import itertools

import jax


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

    def shifted_by(self, x: jax.Array, offset: jax.Array, first: int) -> jax.Array:
        """Do the same with an `offset` that is known only when the program runs.

        Args:
          x: padded inputs, spatial axes from `first` on.
          offset: integers `(spatial axes,)`.
          first: the first spatial axis.
        """
        starts: list[int | jax.Array] = [0] * x.ndim
        sizes, step = list(x.shape), [1] * x.ndim
        axes = zip(self.output, self.strides, strict=True)
        for axis, (count, stride) in enumerate(axes, first):
            starts[axis] = offset[axis - first]
            sizes[axis] = (count - 1) * stride + 1
            step[axis] = stride
        part = jax.lax.dynamic_slice(x, starts, sizes)
        return jax.lax.slice(part, [0] * x.ndim, part.shape, step)
