"""Look-ups of rows in a table."""

import jax
import jax.numpy as jnp

from dpjax.clipping.forms import Form, Layout, Rows
from dpjax.clipping.norm_rules.meeting import Meeting, as_matrices, rest_of, rule


@rule("gather")
def look_up(meeting: Meeting) -> Form | None:
    """Of rows of a table w: the cotangents go to the rows they came from."""
    indices = meeting.inputs[1] if meeting.position == 0 else None
    numbers = meeting.params["dimension_numbers"]
    axis = _looked_up_axis(meeting)
    if indices is None or axis is None or meeting.stack:
        return None
    offset = tuple(numbers.offset_dims)
    picked = rest_of(meeting.cotangent.ndim - 3, offset)
    columns = rest_of(len(meeting.weight), (axis,))
    layout = Layout(meeting.weight, (), (axis,), columns, meeting.weight)
    values = as_matrices(meeting.cotangent, (), picked, offset)[:, 0]
    index = indices.reshape(len(indices), values.shape[1]).astype(jnp.int32)
    last = meeting.weight[axis] - 1
    if meeting.params["mode"] == jax.lax.GatherScatterMode.CLIP:
        index = jnp.clip(index, 0, last)
    inside = (index >= 0) & (index <= last)
    values = jnp.where(inside[..., None], values, 0)
    return Rows(jnp.where(inside, index, 0), values, layout)


def _looked_up_axis(meeting: Meeting) -> int | None:
    """Return the axis of the table that whole rows are taken along, if so."""
    numbers = meeting.params["dimension_numbers"]
    if len(numbers.start_index_map) != 1 or numbers.operand_batching_dims:
        return None
    (axis,) = numbers.start_index_map
    sizes = list(meeting.weight)
    sizes[axis] = 1
    whole = tuple(meeting.params["slice_sizes"]) == tuple(sizes)
    return axis if whole and tuple(numbers.collapsed_slice_dims) == (axis,) else None
