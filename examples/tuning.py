"""What of a model is trained: all of it, some of its parameters, or adapters."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from dpjax import optimizers, training
from dpjax.types import LossFn, Params


class Tuned(NamedTuple):
    """What is trained.

    Attributes:
        params: What is trained, and nothing else.
        loss: The loss of one example as a function of it.
        whole: From what is trained to the parameters of the model.
    """

    params: Params
    loss: LossFn
    whole: Callable[[Params], Params]


def tuned(
    params: Params,
    loss: LossFn,
    key: jax.Array,
    *,
    train_only: str | None,
    adapter_rank: int | None,
) -> Tuned:
    """Return what is trained of a model.

    Args:
        params: Parameters of the model, public.
        loss: The loss of one example as a function of them.
        key: Of the adapters' random part.
        train_only: Regular expression, or None: parameters in whose path it is found.
        adapter_rank: Rank, or None: adapters of all matrices that are larger.

    Raises:
        FlagError: If the model has nothing of the kind.
    """
    if train_only is not None:
        return _part(params, loss, train_only)
    if adapter_rank is not None:
        return _adapters(params, loss, key, adapter_rank)
    return Tuned(params, loss, lambda trained: trained)


def _part(params: Params, loss: LossFn, pattern: str) -> Tuned:
    try:
        split = optimizers.split_params(
            params, lambda path: re.search(pattern, path) is not None
        )
    except ValueError:
        raise training.FlagError(
            f"Expected parameters with such a path, got --train_only={pattern!r} for "
            f"{', '.join(_paths(params))}."
        ) from None
    frozen = split.frozen
    return Tuned(
        split.trained,
        optimizers.partial_loss(loss, frozen),
        lambda trained: optimizers.merge_params(trained, frozen),
    )


def _adapters(params: Params, loss: LossFn, key: jax.Array, rank: int) -> Tuned:
    leaves = dict(zip(_paths(params), jax.tree.leaves(params), strict=True))
    large = {
        path
        for path, leaf in leaves.items()
        if leaf.ndim >= 2 and min(leaf.shape[-2:]) > rank
    }
    if not large:
        raise training.FlagError(
            f"Expected a matrix of a higher rank, got --adapter_rank={rank}."
        )
    adapters = optimizers.low_rank_adapters(
        params, rank, key, where=lambda path: path in large
    )
    return Tuned(
        adapters,
        optimizers.adapted_loss(loss, params),
        lambda trained: optimizers.adapted(params, trained),
    )


def _paths(params: Any) -> list[str]:
    found = jax.tree_util.tree_leaves_with_path(params)
    return [jax.tree_util.keystr(path) for path, _ in found]
