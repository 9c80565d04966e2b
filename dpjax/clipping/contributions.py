"""From what the taps saw to one form a parameter leaf.

A leaf may be used at several taps, through views, or after being computed with. Where
the forms of all its uses can be brought together they are; otherwise the leaf's
per-example gradient is written out.
"""

import dataclasses
from typing import Any

import jax

from dpjax.clipping import forms, norms
from dpjax.clipping.forms import Formed, Layout, Outer, Part, Recurrent, Rows, words
from dpjax.clipping.norm_rules import ELEMENTWISE, RULES
from dpjax.clipping.tape import Seen, Site, Tape
from dpjax.clipping.uses import Gradient, part_of, use_at


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
        use = use_at(site, leaves, entries, seen[site.tap])
        if isinstance(site.source.root, int):
            uses[site.source.root].append(use)
        elif _is_concatenated(site):
            for piece in site.source.pieces:
                uses[piece.source.root].append(part_of(use, piece))
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
