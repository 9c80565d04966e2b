"""Rules that scale every gradient, small ones up, by a smooth function of its norm."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check
from dpjax.clipping.rules.grouping import Group
from dpjax.clipping.rules.rule import checked_clip_norm
from dpjax.types import ArrayTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Automatic:
    """Normalise every gradient: C / (norm + stability).

    With this rule the clip norm is part of the learning rate, and need not be tuned: an
    optimizer that does not depend on the scale of gradients, such as Adam, does not
    depend on it at all. The default is AUTO-S; a stability of 0 is AUTO-V, the
    normalised gradient, which forgets how sure an example is.

    Guarantee: under add-or-remove-one the L2 sensitivity of the sum is C; the clip norm
    and the stability are assumed public. A gradient of zero contributes zero.

    Attributes:
      l2_norm_clip: C, the norm that is never exceeded; a float, or a scalar array.
      stability: at least 0, in the units of gradients: norms far above it become C,
        norms far below it are multiplied by C / stability.

    Raises:
      ValueError: a clip norm that is not finite and > 0, or a stability below 0.

    References:
      Bu, Wang, Zha and Karypis (2023), Automatic clipping: differentially private deep
      learning made easier and stronger.

    Example:
      >>> from dpjax import clipped_grad
      >>> fn = clipped_grad(lambda w, x: jnp.vdot(w, x), Automatic(1.0))
      >>> grads = fn(jnp.zeros(2), jnp.array([[30.0, 40.0]]))
      >>> [round(float(g), 3) for g in grads.sum], grads.sensitivity
      ([0.6, 0.8], 1.0)
    """

    l2_norm_clip: float | jax.Array
    stability: float = dataclasses.field(default=0.01, metadata={"static": True})

    def __post_init__(self) -> None:
        """Check the settings."""
        _set_checked(self)
        stability = _check.non_negative("stability", self.stability)
        object.__setattr__(self, "stability", stability)

    @property
    def sensitivity(self) -> float | jax.Array:
        """The clip norm."""
        return self.l2_norm_clip

    def factors(self, leaf_norms: ArrayTree, like: ArrayTree) -> ArrayTree:
        """Return C / (norm + stability)."""
        return _factors(self, lambda norm: norm + self.stability, leaf_norms, like)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PerSampleAdaptive:
    """Scale by C / (norm + r / (norm + r)): large gradients to C, tiny ones little.

    Normalising makes an example that is learnt already, of a tiny and random gradient,
    as loud as any other. Here the factor grows from C for the smallest gradients to at
    most C / (2 sqrt(r) - r), and falls as C / norm beyond.

    Guarantee: as that of `Automatic`: the L2 sensitivity of the sum is C.

    Attributes:
      l2_norm_clip: C; a float, or a scalar array.
      r: in (0, 1].

    Raises:
      ValueError: a clip norm that is not finite and > 0, or r outside (0, 1].

    References:
      Xia, Shen, Yao, Fu, Xu, Xu and Fu (2023), Differentially private learning with
      per-sample adaptive clipping.
    """

    l2_norm_clip: float | jax.Array
    r: float = dataclasses.field(default=0.1, metadata={"static": True})

    def __post_init__(self) -> None:
        """Check the settings."""
        _set_checked(self)
        r = _check.positive("r", self.r)
        if r > 1:
            _check.fail("a number in (0, 1]", "r", r)
        object.__setattr__(self, "r", r)

    @property
    def sensitivity(self) -> float | jax.Array:
        """The clip norm."""
        return self.l2_norm_clip

    def factors(self, leaf_norms: ArrayTree, like: ArrayTree) -> ArrayTree:
        """Return C / (norm + r / (norm + r))."""
        return _factors(
            self, lambda norm: norm + self.r / (norm + self.r), leaf_norms, like
        )


def _set_checked(rule: Automatic | PerSampleAdaptive) -> None:
    # What jax puts in a rule's place while it looks at its structure is no number.
    if isinstance(rule.l2_norm_clip, (int, float, jax.Array, np.generic, np.ndarray)):
        clip_norm = checked_clip_norm(rule.l2_norm_clip)
        object.__setattr__(rule, "l2_norm_clip", clip_norm)


def _factors(
    rule: Automatic | PerSampleAdaptive,
    divisor: Callable[[jax.Array], jax.Array],
    leaf_norms: ArrayTree,
    like: ArrayTree,
) -> ArrayTree:
    """Return C / divisor(norm) for every leaf, for norms that are at most the divisor.

    A norm next to nothing is not scaled up to C: factors, and gradients times them,
    stay finite.
    """
    group = Group.of(leaf_norms, like)
    if group is None:
        return leaf_norms
    info = jnp.finfo(group.norm.dtype)
    bound = jnp.asarray(rule.l2_norm_clip, group.norm.dtype) * (1 - group.error)
    least = math.sqrt(info.tiny) * jnp.maximum(bound, 1)
    factor = bound / jnp.maximum(divisor(group.norm) * (1 + 2 * info.eps), least)
    return group.spread(jnp.where(jnp.isfinite(group.norm), factor, 0))
