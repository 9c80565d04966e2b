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

import functools
from typing import Any

import jax
import jax.numpy as jnp

from dpjax import _apart, _manual
from dpjax.clipping import contributions, norms, rules, summing, tape
from dpjax.clipping.forms import extremes, measuring
from dpjax.clipping.result import PerExample
from dpjax.clipping.uses import Gradient
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
    values, bounds = _measure(gradients)
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params
    )
    leaf_norms = jax.tree.unflatten(structure, list(bounds))
    factors = rule.factors(leaf_norms, like)
    bound = rules.norm_bound(leaf_norms, like)
    grad_norm = jnp.where(jnp.isfinite(values), values, bound)
    bound = jnp.maximum(bound, grad_norm)
    finite = jnp.isfinite(bound)
    keep = finite if mask is None else finite & mask
    weights = _kept(jax.tree.leaves(factors), keep)
    total = [
        summed.astype(norms.working_dtype(leaf.dtype))
        for summed, leaf in zip(
            summing.weighted_sums(gradients, weights), leaves, strict=True
        )
    ]
    per_example = PerExample(loss, grad_norm, aux, bound)
    return jax.tree.unflatten(structure, total), per_example


def tape_of(
    example_loss: Any, params: Params, batch: tuple[ArrayTree, Any]
) -> tape.Tape:
    """Find the taps of a loss."""

    def loss(params: Params, example: Any) -> Any:
        return example_loss(params, *example)

    like = jax.tree.map(lambda leaf: _manual.shaped(jax.typeof(leaf)), params)
    one = jax.tree.map(lambda leaf: _manual.shaped(jax.typeof(leaf), lead=1), batch)
    return tape.record(loss, like, one)


def _record(
    found: tape.Tape, leaves: list[jax.Array], batch: Any
) -> tuple[Any, list[Gradient]]:
    """Run the loss over the batch and keep what its taps saw."""
    entries = found.entries(leaves)
    run = functools.partial(found.run, entries)
    examples = jax.tree.leaves(batch)
    if found.has_own_kernels:
        outputs, seen = _apart.mapped(run, examples)
    else:
        outputs, seen = jax.vmap(run)(examples)
    batch_size = examples[0].shape[0]
    return outputs, contributions.assemble(found, leaves, entries, seen, batch_size)


def _measure(gradients: list[Gradient]) -> tuple[jax.Array, jax.Array]:
    """Return the norms of the gradients, and bounds of every leaf's.

    Squares are taken as they are. Where one overflows, or an example's all but vanish,
    upper bounds that do neither take the norms' place.

    Returns:
      The norms of the whole gradients as they come out in floating point, `(batch,)`,
      infinite where only bounds are known; and what is at least the norms of every
      leaf's in exact arithmetic, `(leaves, batch)`.
    """
    squares = [gradient.squares() for gradient in gradients]
    total, squared_bounds = measuring.added_up(squares)
    bounds = jnp.sqrt(squared_bounds)
    info = jnp.finfo(bounds.dtype)
    seen = total > float(info.tiny) / float(info.eps) ** 2
    # A sum of roots does not overflow: it is finite where each of them is.
    usual = seen & jnp.isfinite(norms.pairwise_sum(bounds.T))
    whole = jnp.where(usual, jnp.sqrt(total), jnp.inf)

    def with_extremes() -> jax.Array:
        terms = [gradient.terms() for gradient in gradients]
        longest = extremes.bounds(terms, bounds)
        return jnp.where(jnp.isfinite(whole), bounds, longest)

    all_usual = jnp.isfinite(jnp.max(whole, initial=0))
    return whole, jax.lax.cond(all_usual, lambda: bounds, with_extremes)


def _kept(factors: list[jax.Array], keep: jax.Array) -> list[jax.Array]:
    """Return the factors, 0 where not kept.

    The division changes nothing. But XLA computes what ends in one once, and does not,
    with all that it comes from, in every product that uses it.
    """
    distinct = {id(factor): factor for factor in factors}
    kept = {}
    for name, factor in distinct.items():
        factor = factor.astype(norms.working_dtype(factor.dtype))
        one = jnp.where(keep, 1, 2).astype(factor.dtype)
        kept[name] = jnp.where(keep, factor, 0) / one
    return [kept[id(factor)] for factor in factors]
