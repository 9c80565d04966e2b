"""Per-example gradients, not formed: what is enough to measure and to sum them.

A form stands for the gradients of a batch with respect to one weight, `(batch, *weight
shape)`. It can tell their norms and their weighted sum, and can write them out where
that is cheaper.
"""

from dpjax.clipping.forms.convolution import Convolution
from dpjax.clipping.forms.form import Form
from dpjax.clipping.forms.formed import Formed, Nothing
from dpjax.clipping.forms.joining import joined
from dpjax.clipping.forms.layout import Layout
from dpjax.clipping.forms.measuring import Squares, Term
from dpjax.clipping.forms.outer import Outer
from dpjax.clipping.forms.part import Part
from dpjax.clipping.forms.recurrent import Recurrent
from dpjax.clipping.forms.tables import Rows, Table
from dpjax.clipping.forms.window import Window

__all__ = [
    "Convolution",
    "Form",
    "Formed",
    "Layout",
    "Nothing",
    "Outer",
    "Part",
    "Recurrent",
    "Rows",
    "Squares",
    "Table",
    "Term",
    "Window",
    "joined",
    "settled",
]


def settled(form: Form) -> Form:
    """Return the form in which measuring and summing together cost least."""
    return form.formed() if form.is_better_formed else form
