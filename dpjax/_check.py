"""Argument checks, with one form of message.

Every message reads "Expected <what>, got <name>=<value>."

Values that are traced by JAX have no number to look at and pass unchecked: what is
static fails early, what is traced is documented (see each caller's docstring).
"""

import math
import operator
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.types import ArrayTree


def is_traced(value: Any) -> bool:
    """Tell whether `value` is known only when the compiled program runs."""
    return isinstance(value, jax.core.Tracer)


def fail(
    expected: str, name: str, value: Any, error: type[Exception] = ValueError
) -> NoReturn:
    """Raise `error` in the house's one form of message."""
    raise error(f"Expected {expected}, got {name}={value!r}.")


def real(name: str, value: Any) -> float:
    """Return `value` as a finite float."""
    if isinstance(value, bool | str | bytes) or value is None or np.ndim(value):
        fail("a real number", name, value, TypeError)
    try:
        number = float(value)
    except (TypeError, ValueError):
        fail("a real number", name, value, TypeError)
    except OverflowError:
        fail("a number that floats hold", name, value)
    if not math.isfinite(number):
        fail("a finite number", name, value)
    return number


def positive(name: str, value: Any) -> float:
    """Return `value` as a finite float above zero."""
    number = real(name, value)
    if not number > 0:
        fail("a number > 0", name, value)
    return number


def non_negative(name: str, value: Any) -> float:
    """Return `value` as a finite float of at least zero."""
    number = real(name, value)
    if not number >= 0:
        fail("a number >= 0", name, value)
    return number


def probability(name: str, value: Any) -> float:
    """Return `value` as a float in (0, 1]."""
    number = real(name, value)
    if not 0 < number <= 1:
        fail("a number in (0, 1]", name, value)
    return number


def open_unit(name: str, value: Any) -> float:
    """Return `value` as a float in (0, 1)."""
    number = real(name, value)
    if not 0 < number < 1:
        fail("a number in (0, 1)", name, value)
    return number


def integer(name: str, value: Any, *, minimum: int) -> int:
    """Return `value` as an int of at least `minimum`; floats are refused."""
    if isinstance(value, bool):
        fail("an integer", name, value, TypeError)
    try:
        number = operator.index(value)
    except TypeError:
        fail("an integer", name, value, TypeError)
    if number < minimum:
        fail(f"an integer >= {minimum}", name, value)
    return number


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """Return `value` if it is one of the `allowed` words."""
    if value not in allowed:
        fail("one of " + ", ".join(repr(word) for word in allowed), name, value)
    return value


def path_name(path: Sequence[Any]) -> str:
    """Return a pytree path as it reads in Python: `['dense']['kernel']`, "" at root."""
    return jax.tree_util.keystr(tuple(path))


def float_leaves(name: str, tree: ArrayTree) -> None:
    """Require at least one leaf, and floating-point or complex leaves only."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        fail("a pytree with at least one array", name, tree)
    for path, leaf in leaves:
        try:
            dtype = jnp.result_type(leaf)
        except (TypeError, ValueError):
            place = f"{name}{path_name(path)}"
            fail("arrays", place, leaf, TypeError)
        if not jnp.issubdtype(dtype, jnp.inexact):
            fail(
                "floating-point leaves",
                f"{name}{path_name(path)}.dtype",
                str(dtype),
                TypeError,
            )


def real_leaves(name: str, tree: ArrayTree) -> None:
    """Require at least one leaf, and real floating-point leaves only."""
    float_leaves(name, tree)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            place = f"{name}{path_name(path)}.dtype"
            fail("real leaves", place, str(dtype), TypeError)


def leading_axis(name: str, tree: ArrayTree) -> int:
    """Return the length of axis 0, which all leaves must share."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        fail("at least one array with a leading batch axis", name, tree)
    sizes: dict[int, str] = {}
    for path, leaf in leaves:
        shape = np.shape(leaf)
        if not shape:
            place = f"{name}{path_name(path)}.shape"
            fail("arrays with a leading batch axis", place, shape)
        sizes.setdefault(shape[0], f"{name}{path_name(path)}.shape={shape}")
    if len(sizes) > 1:
        raise ValueError(
            "Expected leaves that share the length of their leading batch axis, got "
            + " and ".join(list(sizes.values())[:2])
            + "."
        )
    return next(iter(sizes))


def same_shapes(name: str, tree: ArrayTree, like: ArrayTree) -> None:
    """Raise unless `tree` has the structure and the shapes of `like`."""
    structure: Any = jax.tree.structure(like)
    if structure != jax.tree.structure(tree):
        fail(f"the structure {structure}", name, jax.tree.structure(tree))
    paths = jax.tree_util.tree_leaves_with_path(like)
    for (path, want), got in zip(paths, jax.tree.leaves(tree), strict=True):
        if _shape(want) != _shape(got):
            leaf = f"{name}{path_name(path)}.shape"
            fail(f"shape {_shape(want)}", leaf, _shape(got))


def _shape(leaf: Any) -> tuple[int, ...]:
    return tuple(leaf.shape) if hasattr(leaf, "shape") else np.shape(leaf)
