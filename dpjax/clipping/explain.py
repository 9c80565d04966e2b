"""Say what the fast engine will do with a loss, leaf by leaf, and what it costs."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from dpjax import _check, _equations, _manual
from dpjax.clipping import bookkeeping, contributions, counting, liveness, unclipped
from dpjax.clipping.arguments import (
    Arguments,
    Roles,
    merge_constants,
    split_constants,
)
from dpjax.clipping.explanation import Explanation, Row
from dpjax.clipping.tape import Seen, Site
from dpjax.clipping.uses import Gradient
from dpjax.types import ArrayTree, LossFn, Params


def explain(
    loss_fn: LossFn,
    params: Params,
    *batch: ArrayTree,
    argnums: int | Sequence[int] = 0,
    batch_argnums: int | Sequence[int] | None = None,
    keep_batch_dim: bool = False,
    has_aux: bool = False,
    prng_argnum: int | None = None,
    microbatch_size: int | None = None,
) -> Explanation:
    """Print what `clipped_grad` will do with a loss, leaf by leaf, and what it costs.

    The loss is traced and never run, so that this is fast for any model, and arguments
    may be shapes (`jax.ShapeDtypeStruct`) instead of arrays. Operations are counted as
    XLA counts them, with loops at their full length: two for a multiply-add, one for
    each number of any other arithmetic. "plain" is what the ordinary weight gradient
    takes; a leaf whose operations are far above it, or whose bytes are those of batch x
    its size, is why a model is slow. A loop whose length depends on data counts once.

    Args:
      loss_fn: `loss_fn(params, *example) -> scalar`, the loss of ONE example.
      params: parameters: a pytree of floating-point arrays, or of their shapes.
      *batch: pytrees of arrays with a leading axis `(batch,)`, or of their shapes.
      argnums: position or positions of the parameters; this and the rest as in
        `clipped_grad`.
      batch_argnums: positions with a batch axis.
      keep_batch_dim: whether `loss_fn` takes a batch of one.
      has_aux: whether `loss_fn` returns `(loss, aux)`.
      prng_argnum: position of a PRNG key.
      microbatch_size: examples at a time. Operations stay those of the whole batch,
        padded; bytes become those of one piece.

    Returns:
      An `Explanation`: `.rows` has one `Row` a leaf, and `str` the table.

    Raises:
      ValueError: bad settings, batch axes that differ, a loss that is not scalar.
      TypeError: parameters that are not floating-point.

    >>> import jax.numpy as jnp
    >>> params = {"b": jnp.zeros(3), "w": jnp.zeros((4, 3))}
    >>> loss = lambda params, x: jnp.sum(jnp.tanh(x @ params["w"] + params["b"]))
    >>> found = explain(
    ...     loss, params, jnp.ones((8, 4))
    ... )  # doctest: +ELLIPSIS, +NORMALIZE_WHITESPACE
    leaf   shape   taps  what is done             operations  bytes  plain
    ['b']  (3,)    1     elementwise, written out ...
    ['w']  (4, 3)  1     outer product, T=1       ...
    all    ...
    8 examples; the whole plain gradient: ...
    """
    roles = Roles.make(argnums, batch_argnums, prng_argnum, keep_batch_dim, has_aux)
    if microbatch_size is not None:
        _check.integer("microbatch_size", microbatch_size, minimum=1)
    arguments = roles.sort((params, *batch))
    arrays, static = split_constants(arguments.constants)
    found: list[Explanation] = []

    def look(arguments: Arguments) -> None:
        constants = merge_constants(arguments.constants, static)
        loss = roles.example_loss(loss_fn, constants)
        found.append(_explanation(loss, roles, arguments, microbatch_size))

    given = arguments._replace(constants=arrays)
    # Where arrays live is no matter here.
    jax.eval_shape(look, jax.tree.map(lambda x: _manual.shaped(jax.typeof(x)), given))
    print(found[0])
    return found[0]


class _Work(NamedTuple):
    """The engine's work on one batch, traced.

    Attributes:
      sites: where parameters meet the example.
      plain: operations of the plain weight gradient at each site.
      gradients: what becomes of each leaf.
      jaxpr: measures and sums.
      results: which of its results are about each leaf.
      whole: the operations of the plain gradient.
    """

    sites: Sequence[Site]
    plain: list[int]
    gradients: list[Gradient]
    jaxpr: core.Jaxpr
    results: list[list[Any]]
    whole: int


def _explanation(
    loss: Any, roles: Roles, arguments: Arguments, microbatch_size: int | None
) -> Explanation:
    """Look at one piece of the batch, and count it as often as there are pieces."""
    batch_size = _check.leading_axis("batch", arguments.examples)
    piece = min(batch_size, microbatch_size or batch_size)
    times = -(-batch_size // max(piece, 1))
    examples = jax.tree.map(lambda leaf: leaf[:piece], arguments.examples)
    batch = (examples, roles.example_keys(arguments.key, jnp.arange(piece)))
    work = _traced(loss, arguments.params, batch, piece)
    named = jax.tree_util.tree_leaves_with_path(arguments.params)
    rows = []
    for i, (path, leaf) in enumerate(named):
        sites = zip(work.sites, work.plain, strict=True)
        at = [count for site, count in sites if i in site.source.leaves]
        cost = _cost(work.jaxpr, work.results[i], sum(at), times)
        name, how = _check.path_name(path), work.gradients[i].how
        rows.append(Row(name, leaf.shape, len(at), how, *cost))
    cost = _cost(work.jaxpr, work.jaxpr.outvars, sum(work.plain), times)
    spared = any(map(contributions.is_spared, work.sites))
    engine = "bookkeeping" if spared else "vmap"
    return Explanation(tuple(rows), batch_size, *cost, times * work.whole, engine)


def _cost(
    jaxpr: core.Jaxpr, wanted: list[Any], plain: int, times: int
) -> tuple[int, int, int]:
    """Return operations, bytes, and plain operations of what `wanted` depends on."""
    eqns = counting.live(jaxpr, wanted)
    found = counting.operations(eqns)
    return times * found, liveness.temporaries(eqns, wanted), times * plain


def _traced(loss: Any, params: Params, batch: Any, batch_size: int) -> _Work:
    """Trace what `bookkeeping` and the plain gradient do, without running anything."""
    leaves = jax.tree.leaves(params)
    found = bookkeeping.tape_of(loss, params, batch)
    entries = found.entries(leaves)
    _, seen = jax.vmap(found.run, in_axes=(None, 0))(entries, jax.tree.leaves(batch))
    gradients: list[Gradient] = []

    def measure(leaves: Any, entries: Any, seen: Any, weights: jax.Array) -> Any:
        found_now = contributions.assemble(found, leaves, entries, seen, batch_size)
        gradients.extend(found_now)
        return [(leaf.squares()[:3], leaf.weighted_sum(weights)) for leaf in gradients]

    def plain(params: Params, batch: Any) -> Any:
        return unclipped.plain_sum(loss, params, batch, None)

    traced, tree = _equations.trace(
        measure, leaves, entries, seen, jnp.ones(batch_size)
    )
    results = [
        jax.tree.leaves(one) for one in jax.tree.unflatten(tree, traced.jaxpr.outvars)
    ]
    whole, _ = _equations.trace(plain, params, batch)
    at_sites = [
        batch_size * _weight_gradient(site, leaves, entries, seen[site.tap])
        for site in found.sites
    ]
    operations = counting.operations(whole.jaxpr.eqns)
    return _Work(found.sites, at_sites, gradients, traced.jaxpr, results, operations)


def _weight_gradient(site: Site, leaves: Any, entries: Any, seen: Seen) -> int:
    """Count one example's share of the plain gradient of a weight."""
    one = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), seen
    )
    weights = site.weights(leaves, entries)
    traced, _ = _equations.trace(site.pull_back, one, weights)
    eqns = counting.live(traced.jaxpr, traced.jaxpr.outvars)
    # What sums over positions sums over the batch with them.
    size = math.prod(traced.jaxpr.outvars[0].aval.shape)
    return counting.operations(eqns) + (0 if counting.adds_up(eqns) else size)
