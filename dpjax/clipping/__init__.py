"""Bound what one example can contribute to a gradient."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dpjax import _check, _manual, _meshes
from dpjax.clipping import automatic, bookkeeping, rules, unclipped, vmapped
from dpjax.clipping.arguments import (
    Roles,
    as_mask,
    merge_constants,
    split_constants,
)
from dpjax.clipping.explain import explain
from dpjax.clipping.explanation import Explanation
from dpjax.clipping.independence import (
    ExampleDependenceError,
    check_example_independence,
)
from dpjax.clipping.microbatch import in_microbatches
from dpjax.clipping.result import ClippedGrads, PerExample
from dpjax.types import LossFn

__all__ = [
    "ClippedGrads",
    "ExampleDependenceError",
    "Explanation",
    "PerExample",
    "check_example_independence",
    "clipped_grad",
    "explain",
    "rules",
    "summed_grad",
]

_ENGINES = {
    "auto": automatic.clipped_sum,
    "bookkeeping": bookkeeping.clipped_sum,
    "vmap": vmapped.clipped_sum,
}


def clipped_grad(
    loss_fn: LossFn,
    l2_norm_clip: Any,
    *,
    argnums: int | Sequence[int] = 0,
    batch_argnums: int | Sequence[int] | None = None,
    keep_batch_dim: bool = False,
    has_aux: bool = False,
    prng_argnum: int | None = None,
    microbatch_size: int | None = None,
    engine: str = "auto",
) -> Callable[..., ClippedGrads]:
    """Return a function that computes the sum of clipped per-example gradients.

    For examples x_i the sum is Σ g_i · min(1, C / ‖g_i‖) with g_i = ∇ loss(params, x_i)
    (Abadi et al. 2016, Algorithm 1, before the noise).

    Args:
      loss_fn: `loss_fn(params, *example) -> scalar`, the loss of ONE example.
      l2_norm_clip: clip norm C > 0; a prefix pytree of such numbers (one a group of
        leaves); or a rule of `clipping.rules`. Public.
      argnums: position or positions of the parameters.
      batch_argnums: positions with a batch axis; `None` means all but the parameters
        and the key. Other arguments are passed to every example as they are.
      keep_batch_dim: hand `loss_fn` a batch of one instead of one example, so that a
        batched loss can be reused. See `check_example_independence`.
      has_aux: whether `loss_fn` returns `(loss, aux)`.
      prng_argnum: position of a PRNG key; every example gets a key of its own, which
        depends on the call's key and the example's position alone.
      microbatch_size: examples whose gradients are formed at a time, to save memory.
        It changes nothing else.
      engine: "bookkeeping" forms no per-example gradient where it can do without,
        "vmap" forms them all, "auto" chooses: the same numbers, other costs.

    Returns:
      `fn(params, *batch, mask=None, l2_norm_clip=None) -> ClippedGrads`. `mask` is
      boolean `(batch,)`, `False` for padding. `l2_norm_clip` replaces the clip norm of
      the call and may be traced; a traced one is not checked and must be > 0. It may
      be a `rules.IndividualClip`, too.

      On a mesh with explicit axes, `.sum` is split as the parameters are.

    Guarantee:
      Add-or-remove-one changes `.sum` by at most `.sensitivity`, replace-one by twice
      that, up to the float32 rounding of the sum (about batch * 2^-24 of its norm);
      every single clipped gradient obeys its bound without slack. Non-finite gradients
      and masked rows contribute exactly zero. An empty batch gives zero. The rounding
      of norms is allowed for: by its worst case in "vmap", by the probabilistic model
      of Higham and Mary (2019) in "bookkeeping", which clips by a bound above the norm
      where positions cancel, or where squares overflow (norms above 1e19 in float32).

    Raises:
      ValueError: bad settings, batch axes that differ, a loss that is not scalar.
      TypeError: parameters that are not floating-point, a mask that is not boolean.

    References:
      Abadi et al. 2016, Deep Learning with Differential Privacy, arXiv 1607.00133.

    >>> import jax.numpy as jnp
    >>> fn = clipped_grad(lambda w, x: jnp.vdot(w, x), 1.0)
    >>> grads = fn(jnp.zeros(2), jnp.array([[3., 4.], [0., .5]]))
    >>> [round(float(g), 4) for g in grads.sum], grads.sensitivity
    ([0.6, 1.3], 1.0)
    """
    rule = rules.as_rule(l2_norm_clip)
    roles = Roles.make(argnums, batch_argnums, prng_argnum, keep_batch_dim, has_aux)
    if microbatch_size is not None:
        _check.integer("microbatch_size", microbatch_size, minimum=1)
    clipped_sum = _ENGINES[_check.choice("engine", engine, tuple(_ENGINES))]
    run = _batched(loss_fn, roles, microbatch_size, clipped_sum)

    @functools.wraps(loss_fn)
    def fn(*args: Any, mask: Any = None, l2_norm_clip: Any = None) -> ClippedGrads:
        if isinstance(l2_norm_clip, rules.IndividualClip):
            call_rule: rules.ClippingRule = l2_norm_clip
        else:
            call_rule = rule if l2_norm_clip is None else rules.as_rule(l2_norm_clip)
        total, per_example, batch_size = run(args, mask, call_rule)
        sensitivity = call_rule.sensitivity
        return ClippedGrads(total, per_example, sensitivity, batch_size)

    return fn


def summed_grad(
    loss_fn: LossFn,
    *,
    argnums: int | Sequence[int] = 0,
    batch_argnums: int | Sequence[int] | None = None,
    keep_batch_dim: bool = False,
    has_aux: bool = False,
    prng_argnum: int | None = None,
    microbatch_size: int | None = None,
) -> Callable[..., ClippedGrads]:
    """Return the ordinary gradient sum in the form of `clipped_grad`, without privacy.

    For a loop that runs with and without privacy. Nothing is clipped: `.sensitivity` is
    infinite, so that no finite noise makes it private, and `.per_example.grad_norm` is
    `None`. Options are those of `clipped_grad`.
    """
    roles = Roles.make(argnums, batch_argnums, prng_argnum, keep_batch_dim, has_aux)
    if microbatch_size is not None:
        _check.integer("microbatch_size", microbatch_size, minimum=1)
    run = _batched(loss_fn, roles, microbatch_size, unclipped.plain_sum)

    @functools.wraps(loss_fn)
    def fn(*args: Any, mask: Any = None) -> ClippedGrads:
        total, per_example, batch_size = run(args, mask)
        return ClippedGrads(total, per_example, unclipped.SENSITIVITY, batch_size)

    return fn


def _batched(
    loss_fn: LossFn, roles: Roles, microbatch_size: int | None, engine: Callable
) -> Callable:
    @functools.partial(jax.jit, static_argnums=0)
    def compiled(static: Any, arguments: Any, mask: Any, extra: tuple[Any, ...]) -> Any:
        specs = jax.tree.map(_meshes.spec_of, arguments.params)
        examples = _meshes.spec_of_examples(arguments.examples)
        function = functools.partial(summed, static)
        return _meshes.left_to_compiler(
            function, (specs, examples), arguments, mask, extra
        )

    def summed(static: Any, arguments: Any, mask: Any, extra: tuple[Any, ...]) -> Any:
        constants = merge_constants(arguments.constants, static)
        example_loss = roles.example_loss(loss_fn, constants)
        batch_size = _check.leading_axis("batch", arguments.examples)
        keys = roles.example_keys(arguments.key, jnp.arange(batch_size))

        batch = (arguments.examples, keys)
        params = _manual.varying(arguments.params, _manual.axes_of(batch))
        rows = [rules.rows_of(rule) for rule in extra]

        def piece(part: Any, mask: Any) -> Any:
            batch, rows = part
            own = map(rules.with_rows, extra, rows)
            return engine(example_loss, params, batch, mask, *own)

        return in_microbatches(piece, (batch, rows), mask, microbatch_size)

    def run(args: tuple[Any, ...], mask: Any, *extra: Any) -> Any:
        arguments = roles.sort(args)
        batch_size = _check.leading_axis("batch", arguments.examples)
        mask = as_mask(mask, batch_size)
        extra = tuple(
            rules.for_batch(rule, batch_size)
            if isinstance(rule, rules.IndividualClip)
            else rule
            for rule in extra
        )
        arrays, static = split_constants(arguments.constants)
        arguments = arguments._replace(constants=arrays)
        total, per_example = compiled(static, arguments, mask, extra)
        return total, per_example, batch_size if mask is None else None

    return run
