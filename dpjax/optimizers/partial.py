"""Train a part of the parameters: some leaves of the tree, or adapters of low rank."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpjax import _check
from dpjax.types import ArrayTree, KeyLike, LossFn, Params

Chooses = Callable[[str], bool]
"""Tells by a leaf's path, such as "['dense']['kernel']", whether it is chosen."""


class SplitParams(NamedTuple):
    """Parameters in two trees of one shape, with None where the other has the leaf.

    Attributes:
      trained: what is trained. None is no leaf to JAX: whatever maps over this tree,
        clips or noises it, sees the trained leaves alone.
      frozen: the others.
    """

    trained: Params
    frozen: Params

    def merged(self) -> Params:
        """Return the whole parameters."""
        return merge_params(self.trained, self.frozen)


def split_params(params: Params, trainable: Chooses) -> SplitParams:
    """Split parameters into those that are trained, and those that are not.

    `optax.masked` around a private optimizer would hand it half of each gradient, and
    is refused: clipping must see all that an example moves. Here the other leaves are
    no parameters in the first place: the loss is a function of the trained ones.

    Args:
      params: pytree of arrays.
      trainable: `trainable(path) -> bool`, of public settings only.

    Returns:
      `SplitParams(trained, frozen)`.

    Guarantee:
      With `partial_loss`, one example's gradient has the trained leaves alone: they are
      what is clipped, what the sensitivity is of, and what has noise. The frozen leaves
      must be public, or released before; a sum of squares over fewer leaves is no
      larger, so that at one clip norm less is clipped away.

    Raises:
      ValueError: nothing is chosen.

    Example:
      >>> params = {"base": jnp.zeros((3, 2)), "head": jnp.zeros(2)}
      >>> split = split_params(params, lambda path: "head" in path)
      >>> jax.tree.map(jnp.shape, split.trained), jax.tree.map(jnp.shape, split.frozen)
      ({'base': None, 'head': (2,)}, {'base': (3, 2), 'head': None})
    """

    def kept(wanted: bool) -> Params:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: (
                leaf if bool(trainable(_check.path_name(path))) == wanted else None
            ),
            params,
        )

    trained = kept(True)
    if not jax.tree.leaves(trained):
        _check.fail("a leaf that is trained", "trainable", trainable)
    return SplitParams(trained, kept(False))


def merge_params(trained: Params, frozen: Params) -> Params:
    """Return whole parameters from the two trees of `split_params`."""

    def absent(leaf: Any) -> bool:
        return leaf is None

    return jax.tree.map(
        lambda one, other: other if one is None else one,
        trained,
        frozen,
        is_leaf=absent,
    )


def partial_loss(loss_fn: LossFn, frozen: Params) -> LossFn:
    """Return the loss of ONE example as a function of the trained leaves alone.

    Args:
      loss_fn: `loss_fn(params, *example)`, of whole parameters.
      frozen: of `split_params`; held fixed.

    Returns:
      `loss(trained, *example)`, for `clipped_grad`, `fit` or any loop.
    """

    def loss(trained: Params, *example: Any) -> Any:
        return loss_fn(merge_params(trained, frozen), *example)

    return loss


def low_rank_adapters(
    params: Params, rank: int, key: KeyLike, *, where: Chooses | None = None
) -> ArrayTree:
    """Return adapters of low rank for matrices, which change nothing at the start.

    A matrix W, (..., n, m), is used as W + a b, with a of (..., n, rank), normal of
    variance 1 / n, and b of (..., rank, m), zero. Only a and b are trained: rank (n +
    m) numbers, whose noise is less than that of n m.

    Args:
      params: pytree of arrays; only shapes and dtypes are read.
      rank: at least 1, below n and m.
      key: PRNG key or an integer seed, for a; it is no secret.
      where: `where(path) -> bool`, which leaves; None takes all of two axes or more.

    Returns:
      The tree of `params` with {"a": ..., "b": ...} or None in the place of each leaf.

    Raises:
      ValueError: no leaf is chosen, one is no matrix, or the rank is too large.

    References:
      Hu et al. (2022), LoRA: low-rank adaptation of large language models; Yu et al.
      (2022), Differentially private fine-tuning of language models, arXiv 2110.06500.

    Example:
      >>> params = {"kernel": jnp.zeros((8, 6)), "bias": jnp.zeros(6)}
      >>> adapters = low_rank_adapters(params, 2, key=0)
      >>> jax.tree.map(jnp.shape, adapters["kernel"]), adapters["bias"]
      ({'a': (8, 2), 'b': (2, 6)}, None)
    """
    rank = _check.integer("rank", rank, minimum=1)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    source = jax.random.key(key) if isinstance(key, int) else key
    adapters = []
    for number, (path, leaf) in enumerate(leaves):
        name = _check.path_name(path)
        chosen = jnp.ndim(leaf) >= 2 if where is None else bool(where(name))
        own = jax.random.fold_in(source, number)
        adapters.append(_adapter(own, name, leaf, rank) if chosen else None)
    if not jax.tree.leaves(adapters):
        _check.fail("a leaf that has adapters", "where", where)
    return jax.tree.unflatten(treedef, adapters)


def adapted(params: Params, adapters: ArrayTree, *, scale: float = 1.0) -> Params:
    """Return parameters with their adapters added: W + scale a b."""
    leaves = jax.tree.leaves(params)
    treedef: Any = jax.tree.structure(params)
    pairs = treedef.flatten_up_to(adapters)
    return jax.tree.unflatten(
        treedef,
        [
            w if ab is None else w + (scale * (ab["a"] @ ab["b"])).astype(w.dtype)
            for w, ab in zip(leaves, pairs, strict=True)
        ],
    )


def adapted_loss(loss_fn: LossFn, params: Params, *, scale: float = 1.0) -> LossFn:
    """Return the loss of ONE example as a function of the adapters alone.

    Args:
      loss_fn: `loss_fn(params, *example)`, of whole parameters.
      params: public, or released before; held fixed.
      scale: of the adapters, "alpha / rank" of the paper.
    """

    def loss(adapters: ArrayTree, *example: Any) -> Any:
        return loss_fn(adapted(params, adapters, scale=scale), *example)

    return loss


def _adapter(key: jax.Array, name: str, leaf: Any, rank: int) -> dict[str, jax.Array]:
    shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
    if len(shape) < 2:
        _check.fail("leaves of two axes or more", f"params{name}.shape", shape)
    *batch, n, m = shape
    if rank >= min(n, m):
        _check.fail(f"a rank below {min(n, m)} for params{name}", "rank", rank)
    a = jax.random.normal(key, (*batch, n, rank), dtype) / math.sqrt(n)
    return {"a": a.astype(dtype), "b": jnp.zeros((*batch, rank, m), dtype)}
