"""Convolutions, in any number of dimensions and any layout."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dpjax.clipping.forms import Convolution, Form, Layout, Outer, Window
from dpjax.clipping.norm_rules.meeting import Meeting, rule


@rule("conv_general_dilated")
def convolution(meeting: Meeting) -> Form | None:
    """Of a convolution: rows are offsets and inputs of the kernel, columns outputs."""
    params = meeting.params
    image, groups = meeting.inputs[0], params["feature_group_count"]
    if meeting.position != 1 or image is None or meeting.stack:
        return None
    if params["batch_group_count"] != 1:
        return None
    numbers = params["dimension_numbers"]
    out_axis, in_axis, *spatial = numbers.rhs_spec
    window = Window(
        tuple(meeting.weight[axis] for axis in spatial),
        tuple(params["window_strides"]),
        tuple(params["rhs_dilation"]),
        tuple(meeting.cotangent.shape[3 + axis] for axis in numbers.out_spec[2:]),
    )
    x = _images(image, numbers.lhs_spec)
    right = _images(meeting.cotangent, numbers.out_spec)
    borders = zip(params["padding"], params["lhs_dilation"], strict=True)
    config = [(low, high, step - 1) for (low, high), step in borders]
    zero = jnp.zeros((), x.dtype)
    padded = jax.lax.pad(x, zero, [(0, 0, 0), (0, 0, 0), *config, (0, 0, 0)])
    if groups > 1:
        return _grouped(meeting, padded, right, window, groups)
    rows = (*spatial, in_axis)
    layout = Layout(meeting.weight, (), rows, (out_axis,), meeting.weight)
    return Convolution(padded, right, window, layout)


def _grouped(
    meeting: Meeting, padded: jax.Array, right: jax.Array, window: Window, groups: int
) -> Outer:
    """Return the products of a convolution whose features are in groups."""
    out_axis, in_axis, *spatial = meeting.params["dimension_numbers"].rhs_spec
    batch, images, *_, inputs = padded.shape
    shifted = [window.shifted(padded, offset, 2) for offset in window.offsets]
    patches = jnp.stack(shifted, axis=-2)
    positions = images * math.prod(window.output)
    shape = (batch, positions, len(shifted), groups, inputs // groups)
    patches = jnp.transpose(patches.reshape(shape), (0, 3, 1, 2, 4))
    left = patches.reshape(batch, groups, positions, len(shifted) * shape[-1])
    columns = right.shape[-1] // groups
    right = right.reshape(batch, positions, groups, columns)
    split = list(meeting.weight)
    split[out_axis : out_axis + 1] = [groups, columns]

    def moved(axis: int) -> int:
        return axis + (axis > out_axis)

    layout = Layout(
        tuple(split),
        (out_axis,),
        tuple(moved(axis) for axis in (*spatial, in_axis)),
        (out_axis + 1,),
        meeting.weight,
    )
    return Outer(left, jnp.swapaxes(right, 1, 2), layout)


def _images(value: jax.Array, spec: Sequence[int]) -> jax.Array:
    """Arrange `(batch, 1, shared, *shape)` as `(batch, images, *spatial, features)`."""
    images, features, *spatial = spec
    order = (0, 1, 2, *(3 + axis for axis in (images, *spatial, features)))
    moved = jnp.transpose(value, order)
    batch, _, shared, images, *rest = moved.shape
    return moved.reshape(batch, shared * images, *rest)
