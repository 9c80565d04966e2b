"""Clip each example to a norm of its own: what is left of its budget."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check
from dpjax.clipping.rules.grouping import Group
from dpjax.clipping.rules.rule import ClippingRule, checked_clip_norm
from dpjax.types import ArrayTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IndividualClip:
    """Scale gradients down to a share of one norm: min(1, a C / norm), each its own a.

    Guarantee: as `NormClip`, example i adds at most a_i C to the clipped sum, and under
    add-or-remove-one the L2 sensitivity of the sum is C. What is public is C; the
    shares may depend on private data, as long as that of an example depends on itself
    and on what was released before, and on no other example.

    It belongs to one call, `clipped_grad(...)(..., l2_norm_clip=IndividualClip(...))`,
    and is refused wherever a clip norm stays.

    Attributes:
      l2_norm_clip: C, from 2^-100 to 2^100, a float, or a scalar array.
      shares: real `(batch,)` of the examples of the call, in [0, 1]: what is above
        counts as 1, what is below, or NaN, as 0.

    Raises:
      ValueError: a clip norm that is out of range, or, from the call, shares of another
        shape than `(batch,)`.
      TypeError: from the call, shares that are no real numbers.
    """

    l2_norm_clip: float | jax.Array
    shares: jax.Array

    def __post_init__(self) -> None:
        """Check the clip norm."""
        # What jax puts in a rule's place while it looks at its structure is no number.
        if isinstance(self.l2_norm_clip, (int, float, jax.Array, np.generic)):
            clip_norm = individual_clip_norm(self.l2_norm_clip)
            object.__setattr__(self, "l2_norm_clip", clip_norm)

    @property
    def sensitivity(self) -> float | jax.Array:
        """The clip norm."""
        return self.l2_norm_clip

    def factors(self, leaf_norms: ArrayTree, like: ArrayTree) -> ArrayTree:
        """Return min(1, a C / norm)."""
        group = Group.of(leaf_norms, like)
        if group is None:
            return leaf_norms
        shares = self.shares.astype(group.norm.dtype)
        share = jnp.where(shares > 0, jnp.minimum(shares, 1), 0)
        # The share and its product are rounded, too: four units in the last place.
        error = group.error + 2 * float(jnp.finfo(share.dtype).eps)
        bound = share * self.l2_norm_clip * (1 - error)
        above = group.norm > bound
        return group.spread(
            jnp.where(above, bound / jnp.where(above, group.norm, 1), 1)
        )


def individual_clip_norm(l2_norm_clip: Any) -> float | jax.Array:
    """Return a clip norm of which float32 holds shares and quotients, checked."""
    clip_norm = checked_clip_norm(l2_norm_clip)
    if isinstance(clip_norm, float) and not 2.0**-100 <= clip_norm <= 2.0**100:
        _check.fail("a number from 2^-100 to 2^100", "l2_norm_clip", clip_norm)
    return clip_norm


def for_batch(rule: IndividualClip, batch_size: int) -> IndividualClip:
    """Return a rule whose shares are those of the examples of a call, checked."""
    try:
        shares = jnp.asarray(rule.shares)
    except (TypeError, ValueError):
        _check.fail("real numbers", "shares", type(rule.shares).__name__, TypeError)
    if jnp.issubdtype(shares.dtype, jnp.complexfloating):
        _check.fail("real numbers", "shares.dtype", str(shares.dtype), TypeError)
    if shares.shape != (batch_size,):
        _check.fail(f"shape ({batch_size},)", "shares.shape", shares.shape)
    return dataclasses.replace(rule, shares=shares)


def rows_of(rule: ClippingRule | None) -> Any:
    """Return what a rule says of each example, `(batch,)`; None where all are alike."""
    return rule.shares if isinstance(rule, IndividualClip) else None


def with_rows(rule: Any, rows: Any) -> Any:
    """Return a rule for some of the examples, given their part of `rows_of`."""
    return rule if rows is None else dataclasses.replace(rule, shares=rows)
