"""Sums and products, element by element."""

from dpjax.clipping.forms import Form
from dpjax.clipping.norm_rules.meeting import Meeting, rule
from dpjax.clipping.tape.guard import unmarked


@rule("add", "add_any", "identity")
def addition(meeting: Meeting) -> Form | None:
    """Of y = w + x the gradient is the cotangent."""
    if meeting.cotangent.shape[3:] != meeting.weight:
        return None
    return meeting.over_steps(meeting.cotangent, marked=True)


@rule("sub")
def subtraction(meeting: Meeting) -> Form | None:
    """Of y = w - x or x - w it is the cotangent, with a sign."""
    if meeting.cotangent.shape[3:] != meeting.weight:
        return None
    sign = 1 if meeting.position == 0 else -1
    return meeting.over_steps(sign * unmarked(meeting.cotangent))


@rule("mul")
def multiplication(meeting: Meeting) -> Form | None:
    """Of y = w * x, elementwise, it is the cotangent times x."""
    other = meeting.other
    if other is None or other.shape[3:] != meeting.weight:
        return None
    if meeting.cotangent.shape[3:] != meeting.weight:
        return None
    return meeting.over_steps(other * unmarked(meeting.cotangent))
