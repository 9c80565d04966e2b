"""The value that every clipping function returns: `ClippedGrads`."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpjax import _check
from dpjax.types import ArrayTree


class PerExample(NamedTuple):
    """Raw quantities of each example. Nothing here is private: do not release it.

    Attributes:
      loss: losses `(batch,)`, or `None` where no loss was computed.
      grad_norm: L2 norms `(batch,)` of the whole gradients, before clipping, or `None`
        where no per-example gradient was looked at.
      aux: what `loss_fn` returned beside the loss, leading axis `(batch,)`, or `None`.
      grad_norm_bound: `(batch,)`, at least `grad_norm` and at least the norm of what
        would be added without a clip: by rounding above it, or by more where an engine
        has no better bound (see `clipped_grad`). Of gradients all of whose entries are
        subnormal it may be 0. `None` where `grad_norm` is.
    """

    loss: jax.Array | None
    grad_norm: jax.Array | None
    aux: ArrayTree = None
    grad_norm_bound: jax.Array | None = None


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, eq=False)
class ClippedGrads:
    """The sum of clipped per-example gradients, with the sensitivity that it has.

    Guarantee: adding or removing one example moves `sum` by at most `sensitivity` in L2
    norm (replacing one: twice that), up to the rounding of the sum itself, about
    batch * 2^-24 of its norm in float32. Padding rows and examples with a non-finite
    gradient contribute exactly zero.

    `a + b` adds the gradients of disjoint examples, before the noise.

    Attributes:
      sum: the clipped sum, shaped like the parameters, float32 at least.
      per_example: raw losses, gradient norms and aux. Never private.
      sensitivity: L2, add-or-remove-one; a float when the clip norm is static, else a
        scalar array.
      batch_size: the static number of examples; `None` when a mask was given, since the
        number of real examples is then private and must not divide anything.
    """

    sum: ArrayTree
    per_example: PerExample | None
    sensitivity: float | jax.Array
    batch_size: int | None

    def without_per_example(self) -> "ClippedGrads":
        """Return the same sum without the raw per-example quantities."""
        return dataclasses.replace(self, per_example=None)

    def __add__(self, other: "ClippedGrads") -> "ClippedGrads":
        """Add gradients of disjoint examples; each example is in one of the two."""
        if not isinstance(other, ClippedGrads):
            return NotImplemented
        _check.same_shapes("other.sum", other.sum, self.sum)
        return ClippedGrads(
            sum=jax.tree.map(jnp.add, self.sum, other.sum),
            per_example=_concatenate(self.per_example, other.per_example),
            sensitivity=_maximum(self.sensitivity, other.sensitivity),
            batch_size=_add_sizes(self.batch_size, other.batch_size),
        )

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """Flatten: a float sensitivity and the batch size are static."""
        static = self.sensitivity if isinstance(self.sensitivity, float) else None
        children = {"sum": self.sum, "per_example": self.per_example}
        if static is None:
            children["sensitivity"] = self.sensitivity
        keyed = [(jax.tree_util.GetAttrKey(k), child) for k, child in children.items()]
        return keyed, (static, self.batch_size)

    @classmethod
    def tree_unflatten(cls, aux: Any, children: Any) -> "ClippedGrads":
        """Undo `tree_flatten_with_keys`."""
        static, batch_size = aux
        total, per_example, *rest = children
        return cls(total, per_example, rest[0] if rest else static, batch_size)


def _maximum(a: float | jax.Array, b: float | jax.Array) -> float | jax.Array:
    if isinstance(a, float) and isinstance(b, float):
        return max(a, b)
    return jnp.maximum(a, b)


def _add_sizes(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


def _concatenate(a: PerExample | None, b: PerExample | None) -> PerExample | None:
    if a is None or b is None:
        return None
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), a, b)
