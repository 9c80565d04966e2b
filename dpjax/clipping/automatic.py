"""The choice between the engines."""

from typing import Any

import jax

from dpjax.clipping import bookkeeping, contributions, rules, vmapped
from dpjax.clipping.result import PerExample
from dpjax.types import ArrayTree, Params


def clipped_sum(
    example_loss: Any,
    params: Params,
    batch: tuple[ArrayTree, Any],
    mask: jax.Array | None,
    rule: rules.ClippingRule,
) -> tuple[ArrayTree, PerExample]:
    """Return what both engines return, by the one that has less to do.

    The book-keeping engine chooses for each parameter; where it would write out every
    per-example gradient, the reference engine takes its place.
    """
    found = bookkeeping.tape_of(example_loss, params, batch)
    if any(map(contributions.is_spared, found.sites)):
        return bookkeeping.clipped_sum(example_loss, params, batch, mask, rule, found)
    return vmapped.clipped_sum(example_loss, params, batch, mask, rule)
