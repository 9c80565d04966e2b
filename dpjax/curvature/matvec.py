"""A linear operator as a function of a vector, with the price of looking at it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import dp_accounting
import jax

from dpjax.types import ArrayTree


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["operands"],
    meta_fields=["function", "event", "traceable", "form"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class MatVec:
    """A linear, symmetric operator: `matvec(vector)` has the structure of `vector`.

    It is a pytree: it goes through `jax.jit` as an argument, and a new set of
    parameters does not compile anything anew when `function` is equal to the last one.

    Attributes:
      function: `function(vector, *operands) -> vector`; hashable, two that compute the
        same are equal.
      operands: arrays that the function needs (parameters, a batch).
      event: what one look at it costs: `NoOpDpEvent` (public data),
        `NonPrivateDpEvent` (private data, no noise), or None: unknown, which a ledger
        refuses.
      traceable: whether JAX can trace the function; one that loops over batches on
        the host cannot be traced.
      form: `form(vector, *operands) -> scalar`, the quadratic form v.Av, where there is
        a shorter way to it than the product; or None. Hashable, as the function, and
        traceable where that is.
    """

    function: Callable[..., ArrayTree]
    operands: tuple[Any, ...] = ()
    event: dp_accounting.DpEvent | None = None
    traceable: bool = True
    form: Callable[..., jax.Array] | None = None

    def __call__(self, vector: ArrayTree) -> ArrayTree:
        """Return the operator applied to a vector, a pytree shaped like it."""
        return self.function(vector, *self.operands)


def as_matvec(matvec: Callable[[ArrayTree], ArrayTree]) -> MatVec:
    """Return `matvec` itself, or a bare callable as an operator without an event."""
    return matvec if isinstance(matvec, MatVec) else MatVec(matvec)
