"""The clip norm of a mechanism, as a constant and in words."""

from typing import Any

import jax

from dpjax import _check
from dpjax.clipping import rules


def static_sensitivity(l2_norm_clip: Any) -> float:
    """Return the add-or-remove sensitivity of the clipped sum, a constant.

    Raises:
      ValueError: a clip norm that is out of range, or that is not a constant.

    >>> static_sensitivity(0.5)
    0.5
    """
    sensitivity = rules.as_rule(l2_norm_clip).sensitivity
    if not isinstance(sensitivity, float):
        _check.fail("a static clip norm", "l2_norm_clip", l2_norm_clip)
    return sensitivity


def describe_clip(l2_norm_clip: Any) -> float | dict[str, float] | str:
    """Return the clip norm, the clip norms of groups by path, or the rule.

    >>> describe_clip({"w": 1.0, "b": 0.5})
    {"['b']": 0.5, "['w']": 1.0}
    """
    rule = rules.as_rule(l2_norm_clip)
    if not isinstance(rule, rules.NormClip):
        return repr(rule)
    tree = jax.tree.unflatten(rule.groups, rule.clip_norms)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    per_group = {jax.tree_util.keystr(path): float(clip) for path, clip in leaves}
    return per_group.get("", per_group)
