"""Matrix products."""

from dpjax.clipping.forms import Form, Layout, Outer, Recurrent
from dpjax.clipping.norm_rules.meeting import Meeting, as_matrices, rest_of, rule


@rule("dot_general")
def dot(meeting: Meeting) -> Form | None:
    """Of a contraction of x and w it is an outer product over positions.

    Rows are the contracted axes, columns the free axes of w, positions the free axes of
    x, and groups the batch axes of the product.
    """
    data = meeting.other
    if data is None:
        return None
    contracting, batch = meeting.params["dimension_numbers"]
    at, there = meeting.position, 1 - meeting.position
    w_rows, w_groups = tuple(contracting[at]), tuple(batch[at])
    x_rows, x_groups = tuple(contracting[there]), tuple(batch[there])
    w_columns = rest_of(len(meeting.weight), (*w_rows, *w_groups))
    x_free = rest_of(data.ndim - 3, (*x_rows, *x_groups))
    weight = meeting.weight
    layout = Layout(weight, w_groups, w_rows, w_columns, weight, meeting.stack)
    first, count = len(w_groups), len(x_free)
    free = tuple(range(first, first + count))
    columns = tuple(range(first + count, first + count + len(w_columns)))
    if at == 0:
        columns = tuple(range(first, first + len(w_columns)))
        free = tuple(range(first + len(w_columns), first + len(w_columns) + count))
    groups = tuple(range(first))
    left = as_matrices(data, x_groups, x_free, x_rows)
    right = as_matrices(meeting.cotangent, groups, free, columns)
    outer = Outer(left, right, layout)
    if meeting.cotangent.shape[2] > 1 and not x_free and left.shape[1] == 1:
        return Recurrent.make(outer)
    return outer
