"""Sums and products, element by element.

The weight has the result's shape, or length one along some of its axes.
"""

import jax

from dpjax.clipping.forms import Form
from dpjax.clipping.norm_rules.meeting import Meeting, rule
from dpjax.clipping.tape.guard import unmarked
from dpjax.clipping.tape.views import sum_axes


@rule("add", "add_any", "identity")
def addition(meeting: Meeting) -> Form | None:
    """Of y = w + x the gradient is the cotangent."""
    return _over_broadcasts(meeting, meeting.cotangent, marked=True)


@rule("sub")
def subtraction(meeting: Meeting) -> Form | None:
    """Of y = w - x or x - w it is the cotangent, with a sign."""
    sign = 1 if meeting.position == 0 else -1
    return _over_broadcasts(meeting, sign * unmarked(meeting.cotangent))


@rule("mul")
def multiplication(meeting: Meeting) -> Form | None:
    """Of y = w * x, elementwise, it is the cotangent times x."""
    if meeting.other is None:
        return None
    cotangent, other = unmarked(meeting.cotangent), meeting.other
    # A number may stand for an array of any shape.
    missing = (1,) * (cotangent.ndim - other.ndim)
    other = other.reshape(*other.shape[:3], *missing, *other.shape[3:])
    return _over_broadcasts(meeting, other * cotangent)


def _over_broadcasts(
    meeting: Meeting, value: jax.Array, *, marked: bool = False
) -> Form | None:
    """Sum gradients of the broadcast weight over the axes along which it was."""
    shape, weight = value.shape[3:], meeting.weight
    if len(shape) != len(weight):
        return None
    pairs = zip(shape, weight, strict=True)
    grown = tuple(3 + i for i, (n, own) in enumerate(pairs) if own == 1 != n)
    if grown:
        value, marked = sum_axes(value, grown), False
        value = value.reshape(*value.shape[:3], *weight)
    if value.shape[3:] != weight:
        return None
    return meeting.over_steps(value, marked=marked)
