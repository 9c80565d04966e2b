"""One rule a primitive: what an equation leaves behind for the norm of its weight.

A rule takes what was seen at a tap and returns a form (see `forms`), or `None` where it
does not apply; the derivative of the equation itself then takes its place. To add a
rule, write one function, name its primitive, and test it against `vmap(grad)`.
"""

from dpjax.clipping.norm_rules import convolutions, elementwise, look_ups, products
from dpjax.clipping.norm_rules.meeting import RULES, Meeting, Rule, rule

ELEMENTWISE = (
    elementwise.addition,
    elementwise.subtraction,
    elementwise.multiplication,
)
"""The rules whose gradients are written out, being as small as the weight's use."""

__all__ = [
    "ELEMENTWISE",
    "RULES",
    "Meeting",
    "Rule",
    "convolutions",
    "elementwise",
    "look_ups",
    "products",
    "rule",
]
