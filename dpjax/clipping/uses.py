"""One use of a parameter: what one tap saw, as a form of per-example gradients."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from dpjax import _apart
from dpjax.clipping.forms import Form, Formed, Part, Squares, Term, words
from dpjax.clipping.norm_rules import RULES, Meeting
from dpjax.clipping.tape import Piece, Seen, Site
from dpjax.clipping.tape.guard import widened
from dpjax.clipping.tape.views import View


@dataclasses.dataclass(frozen=True)
class Gradient:
    """The per-example gradients of one parameter leaf, in whatever form.

    Attributes:
      form: a form of the weight.
      views: how the weight is made from the leaf, without changing the norm.
      how: what is done, in words; empty where the form itself says it all.
    """

    form: Form
    views: tuple[View, ...] = ()
    how: str = ""

    def squares(self) -> Squares:
        """Return the squared norms `(batch,)`."""
        return self.form.squares()

    def terms(self) -> list[Term]:
        """Return terms whose sum bounds the norms, also where squares overflow."""
        return self.form.terms()

    def weighted_sum(self, weights: jax.Array) -> jax.Array:
        """Return the weighted sum, shaped like the leaf."""
        return self.to_leaf(self.form.weighted_sum(weights))

    def to_leaf(self, total: jax.Array) -> jax.Array:
        """Turn a sum of the weight's gradients into one of the leaf's."""
        for view in reversed(self.views):
            total = view.undo(total, 0)
        return total

    def formed(self) -> jax.Array:
        """Write the gradients out, `(batch, *leaf shape)`."""
        value = self.form.formed().formed().value
        for view in reversed(self.views):
            value = view.undo(value, 1)
        return value


def use_at(site: Site, leaves: list[jax.Array], entries: Any, seen: Seen) -> Gradient:
    """Return the gradient of one weight at one tap."""
    rule = RULES.get(site.primitive)
    form = None
    if rule is not None and not _is_complex(seen):
        form = rule(_meeting(site, seen))
    how = ""
    if form is None:
        weights = site.weights(leaves, entries)
        form = Formed(_apart.mapped(lambda one: site.pull_back(one, weights), seen))
        how = words.without_rule(site.primitive, known=rule is not None)
        how = words.COMPLEX if _is_complex(seen) else how
    return Gradient(form, site.source.views, how)


def part_of(use: Gradient, piece: Piece) -> Gradient:
    """Return the gradient of one piece of a concatenated weight."""
    where = (piece.axis, piece.start, piece.size)
    form: Form | None = Part.make(use.form, *where)
    how = use.how
    if form is None:
        value = use.form.formed().formed().value
        axis = 1 + piece.axis
        stop = piece.start + piece.size
        part = jax.lax.slice_in_dim(value, piece.start, stop, axis=axis)
        how = how or ("" if isinstance(use.form, Formed) else words.CONCATENATED)
        form = Formed(part)
    return Gradient(form, piece.source.views, how)


def _meeting(site: Site, seen: Seen) -> Meeting:
    stacked = [axis for axis, varies in enumerate(site.source.stack) if varies]
    shared = [axis for axis, varies in enumerate(site.source.stack) if not varies]
    stack = tuple(site.lengths[axis] for axis in stacked)
    steps = math.prod(site.lengths[axis] for axis in shared)
    lead = len(site.lengths)

    def arrange(value: jax.Array) -> jax.Array:
        rest = range(1 + lead, value.ndim)
        order = (0, *(1 + axis for axis in (*stacked, *shared)), *rest)
        moved = jnp.transpose(value, order)
        shape = (len(value), math.prod(stack), steps, *value.shape[1 + lead :])
        return moved.reshape(shape)

    recorded = iter(seen.inputs)
    inputs = [
        arrange(next(recorded)) if i in site.recorded else None
        for i in range(len(site.shapes))
    ]
    cotangents = [arrange(widened(value)) for value in seen.cotangents]
    return Meeting(
        site.params, site.position, site.weight.shape, inputs, cotangents, stack
    )


def _is_complex(seen: Seen) -> bool:
    return any(jnp.iscomplexobj(value) for value in (*seen.inputs, *seen.cotangents))
