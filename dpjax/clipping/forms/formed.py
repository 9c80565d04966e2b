"""Gradients that are written out, and those of a parameter that is not used."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from dpjax import _manual
from dpjax.clipping import norms
from dpjax.clipping.forms.compact import compact
from dpjax.clipping.forms.layout import Layout
from dpjax.clipping.forms.measuring import (
    Squares,
    Term,
    of_elements,
    squares_in_parts,
    working,
)
from dpjax.clipping.tape.guard import unmarked

_SMALL = 4096
"""Elements of a gradient that are summed by one reduction."""


@dataclasses.dataclass(frozen=True)
class Formed:
    """Gradients that are written out.

    Attributes:
      value: `(batch, *weight shape)`, or matrices `(batch, *stack, groups, rows,
        columns)` where there is a layout.
      layout: how the matrices become the weight, once they are summed.
      bad: examples whose gradient is not finite, `(batch,)`, if that is not seen in
        `value`.
      marked: whether `value` is finite, with marks (see `tape.guard`).
    """

    value: jax.Array
    layout: Layout | None = None
    bad: jax.Array | None = None
    marked: bool = False

    is_better_formed = False

    def squares(self) -> Squares:
        """Return the squared norms of what is written out."""
        parts = squares_in_parts(self.value)
        if self.bad is not None:
            parts = jnp.where(self.bad[:, None], jnp.inf, parts)
        return of_elements(parts, math.prod(self.value.shape[1:]))

    def terms(self) -> list[Term]:
        """Return the gradients themselves."""
        if self.bad is None:
            return [Term(1.0, (self.value,))]
        return [Term(1.0, (self.value, jnp.where(self.bad, jnp.inf, 1)))]

    def weighted_sum(self, weights: jax.Array) -> jax.Array:
        """Return the weighted sum of the rows."""
        if self.marked:
            total = _product(self.value, weights)
        elif math.prod(self.value.shape[1:]) <= _SMALL:
            total = _sum_of_rows(self.value, weights)
        else:
            total = jax.lax.platform_dependent(
                self.value, weights, cpu=_sum_in_turn, default=_sum_at_once
            )
        return total if self.layout is None else self.layout.to_weight(total)

    def formed(self) -> "Formed":
        """Return itself, laid out as the weight and NaN where it is bad."""
        value = working(unmarked(self.value) if self.marked else self.value)
        value = value if self.layout is None else self.layout.to_weight(value)
        if self.bad is None:
            return Formed(value)
        bad = self.bad.reshape(value.shape[0], *[1] * (value.ndim - 1))
        return Formed(jnp.where(bad, jnp.nan, value))


@dataclasses.dataclass(frozen=True)
class Nothing:
    """The gradients of a parameter that the loss does not use."""

    batch_size: int
    like: jax.Array

    is_better_formed = False

    def squares(self) -> Squares:
        """Return zeros."""
        dtype = norms.working_dtype(self.like.dtype)
        zeros = jnp.zeros((self.batch_size, 1), jnp.finfo(dtype).dtype)
        return Squares(zeros, None, None, 0.0, 0.0, 0.0)

    def terms(self) -> list[Term]:
        """Return none."""
        return []

    def weighted_sum(self, weights: jax.Array) -> jax.Array:
        """Return zeros, shaped like the parameter."""
        del weights
        return jnp.zeros(self.like.shape, norms.working_dtype(self.like.dtype))

    def formed(self) -> Formed:
        """Return zeros for each example."""
        shape = (self.batch_size, *self.like.shape)
        return Formed(jnp.zeros(shape, norms.working_dtype(self.like.dtype)))


def _sum_of_rows(value: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum short rows, which may be anything where their weight is zero."""
    value = working(value)
    flat = value.reshape(value.shape[0], math.prod(value.shape[1:]))
    rows = weights[:, None].astype(jnp.finfo(value.dtype).dtype)
    products = jnp.where(rows != 0, flat * rows, 0)
    return jnp.sum(products, axis=0).reshape(value.shape[1:])


def _product(value: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum finite rows by a product, which needs no copy of the weights beside them."""
    value = working(value)
    flat = value.reshape(value.shape[0], math.prod(value.shape[1:]))
    total = jnp.dot(weights.astype(value.dtype), flat, precision="highest")
    return total.reshape(value.shape[1:])


def _sum_at_once(value: jax.Array, weights: jax.Array) -> jax.Array:
    rows = weights.reshape(value.shape[0], *[1] * (value.ndim - 1))
    return _product(jnp.where(rows != 0, value, 0), weights)


def _sum_in_turn(value: jax.Array, weights: jax.Array) -> jax.Array:
    """Add one example after the other, without a copy of all of them."""
    dtype, shape = norms.working_dtype(value.dtype), value.shape[1:]

    def add(total: jax.Array, one: tuple[jax.Array, jax.Array]) -> tuple:
        row, weight = one
        return total + jnp.where(weight != 0, row.astype(dtype) * weight, 0), None

    zero = compact(_manual.zeros((value, weights), shape, dtype))
    rows = value.reshape(len(value), *zero.shape)
    total, _ = jax.lax.scan(add, zero, (rows, weights.astype(zero.real.dtype)))
    return total.reshape(shape)
