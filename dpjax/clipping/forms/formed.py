"""Gradients that are written out, and those of a parameter that is not used."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from dpjax.clipping import norms
from dpjax.clipping.forms.layout import Layout
from dpjax.clipping.forms.measuring import (
    Norm,
    longest,
    of_elements,
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

    def norm(self) -> Norm:
        """Return the norms of what is written out."""
        found = of_elements(self.value, self._axes)
        if self.bad is None:
            return found
        return Norm(*(jnp.where(self.bad, jnp.inf, norm) for norm in found))

    def longest(self) -> jax.Array:
        """Return the norms where they are large."""
        found = longest(self.value, self._axes)
        return found if self.bad is None else jnp.where(self.bad, jnp.inf, found)

    def weighted_sum(self, weights: jax.Array) -> jax.Array:
        """Return the weighted sum of the rows."""
        if self.marked:
            total = _product(self.value, weights)
        elif math.prod(self.value.shape[1:]) <= _SMALL:
            total = _sum_at_once(self.value, weights)
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

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(1, self.value.ndim))


@dataclasses.dataclass(frozen=True)
class Nothing:
    """The gradients of a parameter that the loss does not use."""

    batch_size: int
    like: jax.Array

    is_better_formed = False

    def norm(self) -> Norm:
        """Return zeros."""
        dtype = norms.working_dtype(self.like.dtype)
        zeros = jnp.zeros(self.batch_size, jnp.finfo(dtype).dtype)
        return Norm(zeros, zeros)

    def longest(self) -> jax.Array:
        """Return zeros."""
        return self.norm().value

    def weighted_sum(self, weights: jax.Array) -> jax.Array:
        """Return zeros, shaped like the parameter."""
        del weights
        return jnp.zeros(self.like.shape, norms.working_dtype(self.like.dtype))

    def formed(self) -> Formed:
        """Return zeros for each example."""
        shape = (self.batch_size, *self.like.shape)
        return Formed(jnp.zeros(shape, norms.working_dtype(self.like.dtype)))


def _product(value: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum finite rows by a matrix product: on a CPU much faster than a reduction."""
    value = working(value)
    flat = value.reshape(value.shape[0], math.prod(value.shape[1:]))
    total = jnp.dot(weights.astype(value.dtype), flat, precision="highest")
    return total.reshape(value.shape[1:])


def _sum_at_once(value: jax.Array, weights: jax.Array) -> jax.Array:
    rows = weights.reshape(value.shape[0], *[1] * (value.ndim - 1))
    return _product(jnp.where(rows != 0, value, 0), weights)


def _sum_in_turn(value: jax.Array, weights: jax.Array) -> jax.Array:
    """Add one example after the other, without a copy of all of them."""
    dtype = norms.working_dtype(value.dtype)

    def add(total: jax.Array, one: tuple[jax.Array, jax.Array]) -> tuple:
        row, weight = one
        return total + jnp.where(weight != 0, row.astype(dtype) * weight, 0), None

    zero = jnp.zeros(value.shape[1:], dtype)
    return jax.lax.scan(add, zero, (value, weights.astype(zero.real.dtype)))[0]
