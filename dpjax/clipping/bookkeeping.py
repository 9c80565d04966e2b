"""The fast engine: per-example clipping without per-example gradients.

DP-SGD needs of each example's gradient only its norm, and of all of them one weighted
sum. Neither needs the gradients themselves:

1. Record. The tape finds the taps, the equations of the loss where parameters meet the
   example, and one forward and one backward pass over the batch writes down what each
   of them saw: its input x and the derivative of the loss at its output, dL/dy.
2. Measure. For y = x @ w the example's gradient is the outer product of x and dL/dy, so
   its norm is |x| |dL/dy| (Goodfellow 2015); with T positions it follows from two T x T
   matrices (Lee and Kifer 2021; "ghost norm" in Li et al. 2022). `norm_rules` has one
   rule a primitive, `forms` the algebra.
3. Weight. The clip factors scale the cotangents, and one batched product per weight
   gives the clipped sum: the cost of the ordinary gradient ("book-keeping" in Bu et al.
   2023, which avoids the second backward pass of ghost clipping).

Where no rule applies, where parameters were computed with before they met data (weight
norm), or where a parameter is used in ways whose sum has no short norm, that
parameter's per-example gradient is written out, and only that one's.

References:
  Goodfellow 2015, Efficient Per-Example Gradient Computations, arXiv 1510.01799.
  Lee and Kifer 2021, Scaling up Differentially Private Deep Learning with Fast
    Per-Example Gradient Clipping, arXiv 2009.03106.
  Li, Tramer, Liang, Hashimoto 2022, Large Language Models Can Be Strong Differentially
    Private Learners, arXiv 2110.05679.
  Bu, Wang, Zha, Karypis 2023, Differentially Private Optimization on Large Model at
    Small Cost, arXiv 2210.00038.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.clipping import contributions, norms, rules, tape
from dpjax.clipping.contributions import Gradient
from dpjax.clipping.forms import Norm
from dpjax.clipping.result import PerExample
from dpjax.types import ArrayTree, Params


def clipped_sum(
    example_loss: Any,
    params: Params,
    batch: tuple[ArrayTree, Any],
    mask: jax.Array | None,
    rule: rules.ClippingRule,
    found: tape.Tape | None = None,
) -> tuple[ArrayTree, PerExample]:
    """Return the clipped gradient sum of a batch, and the raw per-example quantities.

    Args:
      example_loss: `(params, example, key) -> (loss, aux)` of one example.
      params: parameters, shared by all examples.
      batch: `(examples, keys)` with a leading axis `(batch,)`; keys may be `None`.
      mask: booleans `(batch,)` or `None`.
      rule: the clipping rule.
      found: the tape of the loss, if it is known already.
    """
    leaves, structure = jax.tree.flatten(params)
    found = tape_of(example_loss, params, batch) if found is None else found
    (loss, aux), gradients = _record(found, leaves, batch)
    measured = _measure(gradients)
    grad_norm = norms.euclidean_norm(measured.value.T)
    like = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    factors = rule.factors(
        jax.tree.unflatten(structure, list(measured.bound)),
        jax.tree.unflatten(structure, like),
    )
    finite = jnp.isfinite(grad_norm)
    keep = finite if mask is None else finite & mask
    weights = [jnp.where(keep, factor, 0) for factor in jax.tree.leaves(factors)]
    total = [
        gradient.weighted_sum(weight).astype(norms.working_dtype(leaf.dtype))
        for gradient, weight, leaf in zip(gradients, weights, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, total), PerExample(loss, grad_norm, aux)


def tape_of(
    example_loss: Any, params: Params, batch: tuple[ArrayTree, Any]
) -> tape.Tape:
    """Find the taps of a loss."""

    def loss(params: Params, example: Any) -> Any:
        return example_loss(params, *example)

    one = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), batch
    )
    return tape.record(loss, params, one)


def _record(
    found: tape.Tape, leaves: list[jax.Array], batch: Any
) -> tuple[Any, list[Gradient]]:
    """Run the loss over the batch and keep what its taps saw."""
    entries = found.entries(leaves)
    outputs, seen = jax.vmap(found.run, in_axes=(None, 0))(
        entries, jax.tree.leaves(batch)
    )
    batch_size = jax.tree.leaves(batch)[0].shape[0]
    return outputs, contributions.assemble(found, leaves, entries, seen, batch_size)


def _measure(gradients: list[Gradient]) -> Norm:
    """Return the norms of every leaf's gradients, `(leaves, batch)`.

    Squares are taken as they are. Where one overflows, or an example's all but vanish,
    upper bounds that do neither take the norms' place.
    """
    found = [gradient.norm() for gradient in gradients]
    values = jnp.stack([norm.value for norm in found])
    bounds = jnp.stack([norm.bound for norm in found])
    eps, tiny = (float(getattr(jnp.finfo(bounds.dtype), n)) for n in ("eps", "tiny"))
    usual = jnp.isfinite(bounds) & (jnp.max(values, axis=0) > math.sqrt(tiny) / eps)
    longest = jax.lax.cond(
        jnp.all(usual),
        lambda: jnp.zeros_like(bounds),
        lambda: jnp.stack([gradient.longest() for gradient in gradients]),
    )
    value, bound = longest, longest * (1 + 32 * eps)
    return Norm(jnp.where(usual, values, value), jnp.where(usual, bounds, bound))
