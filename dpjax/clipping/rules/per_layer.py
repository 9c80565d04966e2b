"""Clip norms of layers, from that of the whole gradient."""

import math
from typing import Any

import jax

from dpjax import _check
from dpjax.types import ArrayTree

BY = ("uniform", "dimension")


def per_layer_clip_norms(
    params: ArrayTree, l2_norm_clip: float, *, by: str = "uniform", depth: int = 1
) -> Any:
    """Return a clip norm for each layer, such that all together have `l2_norm_clip`.

    Args:
      params: pytree of parameters; shapes are looked at, no values.
      l2_norm_clip: C > 0, the sensitivity of the sum that is clipped so.
      by: "uniform" gives each of m layers C / sqrt(m), "dimension" each C times the
        root of its share of the parameters.
      depth: how deep in the tree the layers are: 1 for the children of its root.

    Returns:
      A prefix of `params` with a float for each layer, as `clipped_grad` takes it.

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
    depth = _check.integer("depth", depth, minimum=1)
    layers, structure = _layers(params, depth)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(layer)) for layer in layers]
    if not sum(sizes):
        _check.fail("parameters", "params", params)
    kept = [size if by == "dimension" else float(size > 0) for size in sizes]
    shares = [total * math.sqrt(share / sum(kept)) for share in kept]
    return jax.tree.unflatten(structure, shares)


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
