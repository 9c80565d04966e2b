"""What a private step can be given, brought into one form: a clipped sum."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from dpjax import _check, _meshes, clipping
from dpjax.clipping import aggregate, arguments, rules
from dpjax.types import ArrayTree, Params

CLIP_MARKER = "_clip_per_example"
"""Name, in a traced update, of the call that clips per-example gradients."""

NORMS_OF_CLIP = 2
"""Results of that call after the leaves of the sum: norms, and their bounds."""


def clipped(
    updates: Any,
    params: Params | None,
    rule: rules.ClippingRule,
    loss_fn: Callable | None,
    batch: Any,
    mask: Any,
) -> tuple[clipping.ClippedGrads, ArrayTree]:
    """Return the clipped sum, and a tree that has the dtypes of the result.

    Args:
      updates: per-example gradients, a `ClippedGrads`, or `None`.
      params: the parameters, where they are known.
      rule: the clipping rule of the transformation.
      loss_fn: loss of one example, with `updates=None`.
      batch: arguments of `loss_fn` after the parameters, with a batch axis: a tuple of
        them, or a single one (a named tuple is one).
      mask: booleans `(batch,)`; `False` marks padding.
    """
    if loss_fn is not None:
        return _computed(updates, params, rule, loss_fn, batch, mask), params
    if batch is not None or updates is None:
        raise ValueError(
            "Expected updates (per-example gradients or ClippedGrads), or updates=None "
            f"with loss_fn= and batch=, got updates={type(updates).__name__}, "
            f"loss_fn=None, batch={type(batch).__name__}."
        )
    if isinstance(updates, clipping.ClippedGrads):
        if mask is not None:
            raise ValueError(
                "Expected the mask where the gradients were clipped, got a "
                "ClippedGrads together with mask=."
            )
        refuse_masked("updates.sum", updates.sum)
        if params is not None:
            _check.same_shapes("updates.sum", updates.sum, params)
        return _agreed(updates, rule), updates.sum if params is None else params
    return _from_per_example(updates, params, rule, mask), updates


def _computed(
    updates: Any,
    params: Params | None,
    rule: rules.ClippingRule,
    loss_fn: Callable,
    batch: Any,
    mask: Any,
) -> clipping.ClippedGrads:
    if updates is not None or params is None or batch is None:
        raise ValueError(
            "Expected update(None, state, params, loss_fn=..., batch=...), got "
            f"updates={type(updates).__name__}, params={type(params).__name__}, "
            f"batch={type(batch).__name__}."
        )
    examples = batch if type(batch) is tuple else (batch,)
    return clipping.clipped_grad(loss_fn, rule)(params, *examples, mask=mask)


def _agreed(
    grads: clipping.ClippedGrads, rule: rules.ClippingRule
) -> clipping.ClippedGrads:
    ours, theirs = rule.sensitivity, grads.sensitivity
    both_static = isinstance(ours, float) and isinstance(theirs, float)
    if both_static and not np.isclose(ours, theirs, rtol=1e-12, atol=0):
        raise ValueError(
            "Expected gradients clipped with this optimizer's l2_norm_clip "
            f"(sensitivity {ours}), got sensitivity={theirs}."
        )
    return grads


def _from_per_example(
    updates: ArrayTree, params: Params | None, rule: rules.ClippingRule, mask: Any
) -> clipping.ClippedGrads:
    refuse_masked("updates", updates)
    _check.float_leaves("updates", updates)
    batch_size = _check.leading_axis("updates", updates)
    if params is not None:
        one = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), updates
        )
        _check.same_shapes("updates without their batch axis", one, params)
    mask = arguments.as_mask(mask, batch_size)
    total, grad_norm, bound = _clip_per_example(updates, rule, mask)
    per_example = clipping.PerExample(None, grad_norm, None, bound)
    size = batch_size if mask is None else None
    return clipping.ClippedGrads(total, per_example, rule.sensitivity, size)


@jax.jit
def _clip_per_example(
    updates: ArrayTree, rule: rules.ClippingRule, mask: jax.Array | None
) -> tuple[ArrayTree, jax.Array, jax.Array]:
    """Clip and sum; its name marks, in a traced update, where clipping happens."""
    specs = jax.tree.map(lambda leaf: jax.P(*_meshes.spec_of(leaf)[1:]), updates)
    examples = _meshes.spec_of_examples(updates)
    return _meshes.left_to_compiler(
        aggregate.clip_and_sum, (specs, examples, examples), updates, rule, mask
    )


def refuse_masked(name: str, tree: ArrayTree) -> None:
    """Raise when `optax.masked` or `multi_transform` took leaves out of `tree`."""

    def is_masked(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    nodes = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_masked)
    for path, node in nodes:
        if is_masked(node):
            raise ValueError(
                "Expected the whole gradient, got a masked-out leaf at "
                f"{name}{_check.path_name(path)}. Clipping a part of each example's "
                "gradient leaves the rest unprotected: put masked and multi_transform "
                "inside, as privatize(optax.masked(...), ...)."
            )
