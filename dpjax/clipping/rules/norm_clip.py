"""Clip to fixed norms: of the whole gradient, or of groups of leaves."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from dpjax import _check
from dpjax.clipping import norms
from dpjax.clipping.rules.grouping import Group
from dpjax.clipping.rules.individual import IndividualClip
from dpjax.clipping.rules.rule import ClippingRule, checked_clip_norm
from dpjax.types import ArrayTree


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class NormClip:
    """Scale groups of leaves down to fixed norms: min(1, C / norm), Abadi et al.

    Guarantee: under add-or-remove-one the L2 sensitivity of the clipped sum is
    sqrt(sum of squares of the clip norms), C for a single group. The clip norms are
    assumed public. Every clipped gradient obeys its bound exactly, since the error of
    the norm (`norms.relative_error`) is taken off the bound; that, at most about 2e-6
    of it in float32, is all by which the result differs from the formula.

    Attributes:
      clip_norms: one clip norm a group, Python floats or scalar arrays.
      groups: the prefix of the parameters' tree whose leaves are the groups; a single
        leaf means one group, the whole gradient.
    """

    clip_norms: tuple[float | jax.Array, ...]
    groups: jax.tree_util.PyTreeDef

    @property
    def sensitivity(self) -> float | jax.Array:
        """Root of the sum of squares of the clip norms; a float when they all are."""
        if len(self.clip_norms) == 1:
            return self.clip_norms[0]
        if all(isinstance(clip_norm, float) for clip_norm in self.clip_norms):
            return math.hypot(*self.clip_norms)
        return norms.euclidean_norm(jnp.stack(jnp.broadcast_arrays(*self.clip_norms)))

    def factors(self, leaf_norms: ArrayTree, like: ArrayTree) -> ArrayTree:
        """Return min(1, C / norm of the group), for every leaf of the group."""
        try:
            grouped_norms = self.groups.flatten_up_to(leaf_norms)
            grouped_like = self.groups.flatten_up_to(like)
        except ValueError as error:
            raise ValueError(
                "Expected l2_norm_clip to be a number or a prefix of the parameters' "
                f"tree, got l2_norm_clip of structure {self.groups} for "
                f"{jax.tree.structure(like)}."
            ) from error
        groups = zip(self.clip_norms, grouped_norms, grouped_like, strict=True)
        return jax.tree.unflatten(self.groups, [_group_factors(*g) for g in groups])

    def tree_flatten(self) -> tuple[tuple[jax.Array, ...], Any]:
        """Flatten: array clip norms are children, floats are static."""
        static = tuple(
            clip_norm if isinstance(clip_norm, float) else None
            for clip_norm in self.clip_norms
        )
        arrays = tuple(c for c in self.clip_norms if not isinstance(c, float))
        return arrays, (static, self.groups)

    @classmethod
    def tree_unflatten(cls, aux: Any, arrays: Any) -> "NormClip":
        """Undo `tree_flatten`."""
        static, groups = aux
        remaining = iter(arrays)
        clip_norms = tuple(next(remaining) if c is None else c for c in static)
        return cls(clip_norms, groups)


def as_rule(l2_norm_clip: Any) -> ClippingRule:
    """Return the rule that `l2_norm_clip` stands for.

    Args:
      l2_norm_clip: a number > 0, a prefix pytree of such numbers (one clip norm a
        group), or a rule. JAX arrays stay arrays (they may be traced) and make the
        sensitivity an array; Python and NumPy numbers are static.

    Raises:
      ValueError: a clip norm that is not finite and > 0, no clip norm at all, or an
        `IndividualClip`, whose shares are not public.
      TypeError: a clip norm that is not a number.
    """
    if isinstance(l2_norm_clip, IndividualClip):
        expected = "a clip that is the same for all examples"
        _check.fail(expected, "l2_norm_clip", "IndividualClip")
    if isinstance(l2_norm_clip, ClippingRule):
        # JAX makes rules of placeholders, so that they cannot tell what they are given.
        checked_clip_norm(l2_norm_clip.sensitivity)
        return l2_norm_clip
    leaves, groups = jax.tree.flatten(l2_norm_clip, is_leaf=lambda leaf: leaf is None)
    if not leaves:
        _check.fail("at least one clip norm", "l2_norm_clip", l2_norm_clip)
    return NormClip(tuple(checked_clip_norm(leaf) for leaf in leaves), groups)


def _group_factors(
    clip_norm: float | jax.Array, leaf_norms: ArrayTree, like: ArrayTree
) -> ArrayTree:
    group = Group.of(leaf_norms, like)
    if group is None:
        return leaf_norms
    bound = clip_norm * (1 - group.error)
    above = group.norm > bound
    return group.spread(jnp.where(above, bound / jnp.where(above, group.norm, 1), 1))
