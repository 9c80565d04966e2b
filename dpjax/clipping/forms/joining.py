"""The form of a sum: a weight that is used more than once."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp

from dpjax.clipping.forms.form import Form
from dpjax.clipping.forms.measuring import working
from dpjax.clipping.forms.outer import Outer
from dpjax.clipping.forms.tables import Rows, Table
from dpjax.clipping.tape.guard import finite


def joined(parts: Sequence[Form]) -> Form | None:
    """Return the form of a sum of gradients of one weight, or `None`.

    Positions are concatenated where the parts have the same form: a layer that is
    called twice is a layer that is called once, on twice as many positions.
    """
    outers = [part for part in parts if isinstance(part, Outer)]
    tables = [part for part in parts if isinstance(part, Rows)]
    if len(outers) + len(tables) < len(parts):
        return None
    if not tables:
        return _joined_outer(outers)
    if not outers:
        return _joined_rows(tables)
    outer, table = _joined_outer(outers), _joined_rows(tables)
    if outer is None or table is None or outer.layout.stack or outer.layout.groups:
        return None
    if outer.layout.columns == table.layout.rows:
        outer = outer.swapped()
    if outer.layout.rows != table.layout.rows:
        return None
    same_columns = outer.layout.columns == table.layout.columns
    return Table(table, outer) if same_columns else None


def _joined_outer(parts: list[Outer]) -> Outer | None:
    first, *others = parts
    aligned = [first]
    for part in others:
        turned = part if part.layout == first.layout else part.swapped()
        if turned.layout != first.layout:
            return None
        aligned.append(turned)
    # Sides that were turned hold inputs, which may be anything: mark them too.
    left = jnp.concatenate([finite(working(part.left)) for part in aligned], axis=2)
    right = jnp.concatenate([finite(working(part.right)) for part in aligned], axis=2)
    return dataclasses.replace(first, left=left, right=right, raw="neither")


def _joined_rows(parts: list[Rows]) -> Rows | None:
    first, *others = parts
    if any(part.layout != first.layout for part in others):
        return None
    index = jnp.concatenate([part.index for part in parts], axis=1)
    values = jnp.concatenate([finite(working(part.values)) for part in parts], axis=1)
    return Rows(index, values, first.layout)
