"""Clip norms of layers, from that of the whole gradient."""

import dataclasses
import math
import sys
from typing import Any

import jax

from dpjax import _check
from dpjax.clipping.rules.norm_clip import as_rule
from dpjax.types import ArrayTree

BY = ("uniform", "dimension")
_NOTHING = sys.float_info.min
"""A clip norm above zero whose square is zero."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PerLayer:
    """Clip each layer's gradient by itself, with norms that together have C.

    `per_layer_clip_norms` as a rule, which finds the layers when it is given a tree.

    Guarantee: under add-or-remove-one the L2 sensitivity of the clipped sum is C; C and
    the shapes of the parameters are assumed public.

    Attributes:
      l2_norm_clip: C, a float > 0.
      by: "uniform" or "dimension", as in `per_layer_clip_norms`.
      depth: as there; None takes the children of the first node that has several, which
        are a Flax model's own layers.

    Raises:
      ValueError: a setting out of range.

    References:
      McMahan, Ramage, Talwar and Zhang (2018), Learning differentially private
      recurrent language models.

    Example:
      >>> import jax.numpy as jnp
      >>> from dpjax import clipped_grad
      >>> fn = clipped_grad(lambda w, x: x @ w["a"] + x @ w["b"], PerLayer(1.0))
      >>> grads = fn({"a": jnp.zeros(2), "b": jnp.zeros(2)}, jnp.array([[30.0, 40.0]]))
      >>> [round(float(g), 3) for g in grads.sum["a"]], grads.sensitivity
      ([0.424, 0.566], 1.0)
    """

    l2_norm_clip: float = dataclasses.field(metadata={"static": True})
    by: str = dataclasses.field(default="uniform", metadata={"static": True})
    depth: int | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self) -> None:
        """Check the settings."""
        clip_norm = _check.positive("l2_norm_clip", self.l2_norm_clip)
        object.__setattr__(self, "l2_norm_clip", clip_norm)
        _check.choice("by", self.by, BY)
        if self.depth is not None:
            _check.integer("depth", self.depth, minimum=1)

    @property
    def sensitivity(self) -> float:
        """The norm of all layers' clip norms."""
        return self.l2_norm_clip

    def factors(self, leaf_norms: ArrayTree, like: ArrayTree) -> ArrayTree:
        """Return min(1, C_layer / norm of the layer), for every leaf of the layer."""
        clip_norms = per_layer_clip_norms(
            like, self.l2_norm_clip, by=self.by, depth=self.depth
        )
        return as_rule(clip_norms).factors(leaf_norms, like)


def per_layer_clip_norms(
    params: ArrayTree,
    l2_norm_clip: float,
    *,
    by: str = "uniform",
    depth: int | None = 1,
) -> Any:
    """Return a clip norm for each layer, such that all together have `l2_norm_clip`.

    Args:
      params: pytree of parameters; shapes are looked at, no values.
      l2_norm_clip: C > 0, the sensitivity of the sum that is clipped so.
      by: "uniform" gives each of m layers C / sqrt(m), "dimension" each C times the
        root of its share of the parameters.
      depth: how deep in the tree the layers are: 1 for the children of its root; None
        for those of the first node that has several.

    Returns:
      A prefix of `params` with a float for each layer, as `clipped_grad` takes it. A
      layer without a parameter has the least there is, which adds nothing to C.

    Raises:
      ValueError: no layers, or a setting out of range.

    References:
      McMahan, Ramage, Talwar and Zhang (2018), Learning differentially private
      recurrent language models.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"a": {"w": jnp.zeros(3)}, "b": {"w": jnp.zeros((3, 3))}}
      >>> clip_norms = per_layer_clip_norms(params, 1.0, by="dimension")
      >>> {name: round(clip_norm, 3) for name, clip_norm in clip_norms.items()}
      {'a': 0.5, 'b': 0.866}
    """
    total = _check.positive("l2_norm_clip", l2_norm_clip)
    _check.choice("by", by, BY)
    if depth is None:
        depth = _depth_of_layers(params)
    layers, structure = _layers(params, _check.integer("depth", depth, minimum=1))
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(layer)) for layer in layers]
    if not sum(sizes):
        _check.fail("parameters", "params", params)
    kept = [size if by == "dimension" else float(size > 0) for size in sizes]
    shares = [total * math.sqrt(share / sum(kept)) or _NOTHING for share in kept]
    return jax.tree.unflatten(structure, shares)


def _depth_of_layers(params: ArrayTree) -> int:
    """Return the depth of the children of the first node that has several."""
    depth = 1
    children = _children(params)
    while len(children) == 1 and not jax.tree_util.all_leaves(children):
        depth += 1
        children = _children(children[0])
    return depth


def _children(node: Any) -> list[Any]:
    return jax.tree.leaves(node, is_leaf=lambda x: x is not node)


def _layers(params: ArrayTree, depth: int) -> tuple[list[Any], Any]:
    """Return the subtrees at a depth (leaves that are above it too), and the rest."""
    found: list[Any] = []

    def walk(node: Any, left: int) -> Any:
        if left == 0 or jax.tree_util.all_leaves([node]):
            found.append(node)
            return 0
        children = jax.tree.flatten(node, is_leaf=lambda x: x is not node)
        return jax.tree.unflatten(
            children[1], [walk(child, left - 1) for child in children[0]]
        )

    return found, jax.tree.structure(walk(params, depth))
