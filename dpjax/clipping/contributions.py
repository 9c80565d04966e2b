"""From what the taps saw to one form a parameter leaf.

A leaf may be used at several taps, through views, or after being computed with. Where
the forms of all its uses can be brought together they are; otherwise the leaf's
per-example gradient is written out.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.clipping import forms, norms
from dpjax.clipping.forms import (
    Form,
    Formed,
    Layout,
    Outer,
    Part,
    Recurrent,
    Rows,
    Squares,
    Term,
    words,
)
from dpjax.clipping.norm_rules import ELEMENTWISE, RULES, Meeting
from dpjax.clipping.tape import Piece, Seen, Site, Tape
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


def assemble(
    found: Tape,
    leaves: list[jax.Array],
    entries: Any,
    seen: list[Seen],
    batch_size: int,
) -> list[Gradient]:
    """Return the per-example gradients of every parameter leaf.

    Args:
      found: the tape.
      leaves: the parameters' leaves.
      entries: what `Tape.entries` returned for them.
      seen: what the batch showed at each tap, a leading axis `(batch,)` in front.
      batch_size: number of examples.
    """
    uses: dict[int, list[Gradient]] = {i: [] for i in range(len(leaves))}
    of_computed: list[tuple[Site, Gradient]] = []
    for site in found.sites:
        use = _use(site, leaves, entries, seen[site.tap])
        if isinstance(site.source.root, int):
            uses[site.source.root].append(use)
        elif _is_concatenated(site):
            for piece in site.source.pieces:
                uses[piece.source.root].append(_part(use, piece))
        else:
            of_computed.append((site, use))
    computed = _through_computations(found, leaves, of_computed)
    gradients = []
    for i, leaf in enumerate(leaves):
        if i in computed:
            parts = [use.formed() for use in uses[i]]
            total = Formed(_total([computed[i], *parts]))
            gradients.append(Gradient(total, how=words.COMPUTED))
        elif not uses[i]:
            nothing = forms.Nothing(batch_size, leaf)
            gradients.append(Gradient(nothing, how=words.UNUSED))
        else:
            gradients.append(combined(uses[i]))
    return gradients


def is_spared(site: Site) -> bool:
    """Tell whether a rule other than an elementwise one knows this use of a leaf."""
    known = site.primitive in RULES and RULES[site.primitive] not in ELEMENTWISE
    return known and (isinstance(site.source.root, int) or _is_concatenated(site))


def _is_concatenated(site: Site) -> bool:
    """Whether the weight is a concatenation of leaves, and nothing was done to it."""
    casts_only = all(view.kind == "cast" for view in site.source.views)
    return bool(site.source.pieces) and casts_only


def _part(use: Gradient, piece: Piece) -> Gradient:
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


def combined(uses: list[Gradient]) -> Gradient:
    """Return the gradient of a leaf from those of its uses."""
    if len(uses) > 1:
        uses = [_without_transposes(use) for use in uses]
    first, *others = uses
    if not all(view.is_isometric for use in uses for view in use.views):
        return _written_out(uses)
    if not others:
        how = first.how or words.described(first.form)
        return Gradient(forms.settled(first.form), first.views, how)
    if any(use.views != first.views for use in others):
        return _written_out(uses)
    form = forms.joined([use.form for use in uses])
    if form is None:
        return _written_out(uses)
    return Gradient(forms.settled(form), first.views, words.described(form))


def _use(site: Site, leaves: list[jax.Array], entries: Any, seen: Seen) -> Gradient:
    """Return the gradient of one weight at one tap."""
    rule = RULES.get(site.primitive)
    form = None
    if rule is not None and not _is_complex(seen):
        form = rule(_meeting(site, seen))
    how = ""
    if form is None:
        weights = site.weights(leaves, entries)
        form = Formed(jax.vmap(site.pull_back, in_axes=(0, None))(seen, weights))
        how = words.without_rule(site.primitive, known=rule is not None)
        how = words.COMPLEX if _is_complex(seen) else how
    return Gradient(form, site.source.views, how)


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


def _without_transposes(use: Gradient) -> Gradient:
    """Describe a form in the axes of the leaf, where only transposes are between."""
    form, views = use.form, list(use.views)
    if isinstance(form, Part | Recurrent):
        form = form.as_outer()
        use = dataclasses.replace(use, form=form)
    if not isinstance(form, Outer | Rows) or form.layout.stack:
        return use
    layout: Layout | None = form.layout
    while views and layout is not None:
        view = views.pop()
        if view.kind == "transpose":
            layout = layout.transposed(view.detail)
        elif view.kind != "cast" and view.shape != layout.weight:
            return use
    if layout is None:
        return use
    return Gradient(dataclasses.replace(form, layout=layout))


def _through_computations(
    found: Tape, leaves: list[jax.Array], uses: list[tuple[Site, Gradient]]
) -> dict[int, jax.Array]:
    """Pull the gradients of computed weights back to the leaves they came from.

    Returns:
      For each leaf that was computed with, its per-example gradient by that way.
    """
    by_entry: dict[Any, list[jax.Array]] = {}
    reached: set[int] = set()
    for site, use in uses:
        by_entry.setdefault(site.entry, []).append(use.formed())
        reached |= site.source.leaves
    if not by_entry:
        return {}

    def entries_of(leaves: list[jax.Array]) -> list[jax.Array]:
        values = jax.tree.leaves(found.entries(leaves))
        return [values[entry] for entry in by_entry]

    values, pull = jax.vjp(entries_of, leaves)
    grads = [
        _total(parts).astype(value.dtype)
        for parts, value in zip(by_entry.values(), values, strict=True)
    ]
    (pulled,) = jax.vmap(pull)(grads)
    return {i: pulled[i] for i in sorted(reached)}


def _written_out(uses: list[Gradient]) -> Gradient:
    """Write out the gradients of a leaf and add them up."""
    how = words.written_out([use.how for use in uses], [use.form for use in uses])
    return Gradient(Formed(_total([use.formed() for use in uses])), how=how)


def _total(parts: list[jax.Array]) -> jax.Array:
    total, *others = (part.astype(norms.working_dtype(part.dtype)) for part in parts)
    for part in others:
        total = total + part
    return total


def _is_complex(seen: Seen) -> bool:
    return any(jnp.iscomplexobj(value) for value in (*seen.inputs, *seen.cotangents))
