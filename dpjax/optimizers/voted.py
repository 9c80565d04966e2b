"""Clipped sums that know how many of their gradients were short."""

import dataclasses

import jax
import jax.numpy as jnp

from dpjax import clipping


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VotedGrads:
    """A clipped sum, and how many of its gradients were no longer than the clip norm.

    `a + b` adds those of disjoint examples, as with `ClippedGrads`.

    Attributes:
      grads: the clipped sum, without the raw quantities of examples.
      votes: 1/2 for each gradient that is no longer, less 1/2 for each that is; of one
        example 1/2 at most, whatever it holds. Raw: private only with the noise of
        `adaptive_clip_aggregate`.
    """

    grads: clipping.ClippedGrads
    votes: jax.Array

    @classmethod
    def of(
        cls,
        grads: clipping.ClippedGrads,
        mask: jax.Array | None,
        l2_norm_clip: jax.Array,
    ) -> "VotedGrads":
        """Count the votes of gradients with their norms; `mask` as for the sum."""
        assert grads.per_example is not None
        norms = grads.per_example.grad_norm
        assert norms is not None
        # A norm that is not finite is not short, and half a count is all that it moves.
        votes = jnp.where(norms <= l2_norm_clip, 0.5, -0.5)
        total = jnp.sum(votes if mask is None else jnp.where(mask, votes, 0.0))
        return cls(grads.without_per_example(), total)

    def __add__(self, other: "VotedGrads") -> "VotedGrads":
        """Add gradients and votes of disjoint examples."""
        return VotedGrads(self.grads + other.grads, self.votes + other.votes)
