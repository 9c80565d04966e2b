"""Those that are compared: ways to the sum of clipped per-example gradients.

Each is a function from a loss to `fn(params, inputs, labels)`, which jit compiles. The
clip norm is 1 for all. What `dpjax` and "vmap(grad)" return holds the losses and norms
of the examples too, as it does for whoever uses it.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

import dpjax

try:
    import jax_privacy
except ImportError:
    jax_privacy = None

Loss = Callable[..., jax.Array]
CLIP_NORM = 1.0


def plain(loss: Loss) -> Callable[..., Any]:
    """Return the gradient of the mean loss of a batch: the measure of the others."""
    return jax.grad(loss)


def engine(name: str) -> Callable[[Loss], Callable[..., dpjax.ClippedGrads]]:
    """Return `dpjax.clipped_grad` by one engine."""

    def contestant(loss: Loss) -> Callable[..., dpjax.ClippedGrads]:
        return dpjax.clipped_grad(loss, CLIP_NORM, engine=name)

    return contestant


def optax_contrib(loss: Loss) -> Callable[..., Any]:
    """Return the clip and sum of `optax.contrib.differentially_private_aggregate`.

    It is called by itself: with a noise multiplier of 0 the transformation draws its
    noise all the same, and multiplies it by 0.
    """

    def fn(params: Any, *batch: jax.Array) -> Any:
        grads = jax.vmap(jax.grad(loss), (None, 0, 0))(params, *batch)
        leaves, treedef = jax.tree.flatten(grads)
        total, _ = optax.per_example_global_norm_clip(leaves, CLIP_NORM)
        return jax.tree.unflatten(treedef, total)

    return fn


def jax_privacy_clipped(loss: Loss) -> Callable[..., Any]:
    """Return `jax_privacy.clipped_grad`, given one example at a time."""
    return jax_privacy.clipped_grad(
        loss, l2_clip_norm=CLIP_NORM, batch_argnums=(1, 2), keep_batch_dim=False
    )


CONTESTANTS: dict[str, Callable[[Loss], Callable[..., Any]]] = {
    "plain": plain,
    "auto": engine("auto"),
    "bookkeeping": engine("bookkeeping"),
    "vmap": engine("vmap"),
    "optax": optax_contrib,
    "jax_privacy": jax_privacy_clipped,
}
"""Those of one process, by the names that `--contestants` takes; plain comes first."""

OPACUS = ("opacus_hooks", "opacus_ghost")
"""Those of `opacus_worker.py`, which runs in an environment of its own."""

TITLES = {
    "plain": "plain gradient",
    "auto": "dpjax",
    "bookkeeping": "dpjax, bookkeeping",
    "vmap": "vmap(grad)",
    "optax": "optax.contrib",
    "jax_privacy": "jax_privacy",
    "opacus_hooks": "Opacus hooks",
    "opacus_ghost": "Opacus ghost",
}
"""How tables and plots call them."""


def missing(name: str) -> str | None:
    """Return why a contestant cannot run at all, or None."""
    if name == "jax_privacy" and jax_privacy is None:
        return "jax_privacy is not installed (pip install -e '.[bench]')"
    return None
