"""What is done for a leaf, in words."""

from dpjax.clipping.forms.convolution import Convolution
from dpjax.clipping.forms.form import Form
from dpjax.clipping.forms.formed import Formed
from dpjax.clipping.forms.outer import Outer
from dpjax.clipping.forms.part import Part
from dpjax.clipping.forms.recurrent import Recurrent
from dpjax.clipping.forms.tables import Rows, Table

COMPUTED = "fallback: computed with before it meets data"
CONCATENATED = "fallback: concatenated before it meets data"
BROADCAST = "fallback: broadcast before it meets data"
SEVERAL = "fallback: used in several ways that have no common form"
COMPLEX = "fallback: complex numbers"
UNUSED = "unused"

_ELEMENTWISE = "elementwise, written out"


def described(form: Form) -> str:
    """Return how a form is measured and summed once it is `settled`.

    A sentence for people, who should not have to know the names of the classes.
    """
    if isinstance(form, Part | Recurrent):
        return _product(form.as_outer())
    if isinstance(form, Outer):
        return _product(form)
    if isinstance(form, Convolution):
        way = "written out" if form.is_better_formed else "Gram matrices"
        return f"convolution, {way}"
    if isinstance(form, Rows):
        return "look-up, written out" if form.is_better_formed else "look-up"
    if isinstance(form, Table):
        return f"look-up + {_product(form.outer)}"
    return _ELEMENTWISE if isinstance(form, Formed) else UNUSED


def without_rule(primitive: str, *, known: bool) -> str:
    """Return why the derivative of an equation itself is taken.

    Args:
      primitive: its name.
      known: whether there is a rule for it, which does not apply.
    """
    if known and primitive in ("add", "add_any", "sub", "mul"):
        return _ELEMENTWISE
    kind = "this kind of " if known else ""
    return f"fallback: no rule for {kind}{primitive}"


def written_out(hows: list[str], used: list[Form]) -> str:
    """Return why gradients of one leaf are written out and added up.

    Args:
      hows: what is done for each use, where its form does not say it.
      used: the forms.
    """
    reasons = [how for how in hows if how not in ("", _ELEMENTWISE)]
    if reasons:
        return reasons[0]
    if all(isinstance(form, Formed) for form in used):
        return _ELEMENTWISE
    return SEVERAL if len(used) > 1 else BROADCAST


def _product(form: Outer) -> str:
    positions = form.left.shape[2]
    if positions == 1:
        return "outer product, T=1"
    if form.is_better_formed:
        return f"written out, T={positions}"
    return f"Gram matrices, T={positions}"
