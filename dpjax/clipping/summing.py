"""The weighted sums of all leaves' gradients."""

from collections.abc import Sequence

import jax

from dpjax.clipping.forms import Part
from dpjax.clipping.uses import Gradient


def weighted_sums(
    gradients: Sequence[Gradient], weights: Sequence[jax.Array]
) -> list[jax.Array]:
    """Return the weighted sum of each leaf's gradients, shaped like the leaf.

    Leaves that met the data side by side, as the gates of a recurrent cell do, are cut
    out of one sum where their weights are one array.

    Args:
      gradients: the gradients of each leaf.
      weights: for each leaf `(batch,)`.
    """
    totals: dict[int, jax.Array] = {}
    apart = _with_weights_of_their_own(gradients, weights)
    found = []
    for gradient, weight in zip(gradients, weights, strict=True):
        form = gradient.form
        if isinstance(form, Part) and id(form.whole) not in apart:
            if id(form.whole) not in totals:
                totals[id(form.whole)] = form.whole.weighted_sum(weight)
            part = form.cut_from(totals[id(form.whole)])
            found.append(gradient.to_leaf(part))
        else:
            found.append(gradient.weighted_sum(weight))
    return found


def _with_weights_of_their_own(
    gradients: Sequence[Gradient], weights: Sequence[jax.Array]
) -> set[int]:
    """Return the products whose parts do not all have the same weights."""
    first: dict[int, jax.Array] = {}
    apart = set()
    for gradient, weight in zip(gradients, weights, strict=True):
        if isinstance(gradient.form, Part):
            whole = id(gradient.form.whole)
            if first.setdefault(whole, weight) is not weight:
                apart.add(whole)
    return apart
