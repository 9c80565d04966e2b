"""One transformation's state, anywhere in the state of a chain."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax

from dpjax import _check
from dpjax.types import ArrayTree

State = TypeVar("State")


def states_of(opt_state: ArrayTree, kind: type[State]) -> list[State]:
    """Return all states of a type, wherever they are."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in nodes if isinstance(node, kind)]


def the_state(opt_state: ArrayTree, kind: type[State]) -> State:
    """Return the one state of a type.

    Raises:
      ValueError: there is none, or there are several.
    """
    found = states_of(opt_state, kind)
    if len(found) != 1:
        _check.fail(f"one {kind.__name__}", "number of them", len(found))
    return found[0]


def with_state(
    opt_state: ArrayTree, kind: type[State], change: Callable[[State], Any]
) -> ArrayTree:
    """Return the state of a chain with `change` made to the states of a type."""
    return jax.tree.map(
        lambda node: change(node) if isinstance(node, kind) else node,
        opt_state,
        is_leaf=lambda node: isinstance(node, kind),
    )
