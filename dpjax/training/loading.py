"""The parameters of a run, from its folder."""

import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.training import checkpoints, folder, storage
from dpjax.types import Params

_TRAINED = re.compile(r"\['state'\]\.opt_state.*\.centre(?=[.\[]|$)")
"""Where `optimizers.sharpness_aware` has what it trains; see its state."""


def load_params(
    run_dir: str | pathlib.Path, like: Params, *, average: bool = False
) -> Params:
    """Return the parameters in the newest whole checkpoint of a run.

    Args:
      run_dir: the run folder.
      like: pytree of the parameters' structure, shapes and dtypes, such as freshly
        initialised ones.
      average: their exponential moving average instead, of a run with `ema_decay`.

    Raises:
      CheckpointError: the run has no checkpoint, none that is whole, or one of other
        parameters than `like`.
    """
    names = {jax.tree_util.keystr(path) for path, _ in _leaves(like)}

    def part(stored: storage.Leaves) -> storage.Leaves:
        trained = next(filter(None, map(_TRAINED.match, stored)), None)
        place = "['state'].params" if trained is None else trained[0]
        if average:
            place = "['state'].average"
        found = {
            name.removeprefix(place): leaf
            for name, leaf in stored.items()
            if name.startswith(place)
        }
        if names != found.keys() and not average:  # a `centre` of something else
            place = "['state'].params"
            found = {
                name.removeprefix(place): leaf
                for name, leaf in stored.items()
                if name.startswith(place)
            }
        if place == "['state'].params" or names != found.keys():
            return found
        dtypes = {jax.tree_util.keystr(path): p.dtype for path, p in _leaves(like)}
        return {name: _narrow(leaf, dtypes[name]) for name, leaf in found.items()}

    directory = pathlib.Path(run_dir) / folder.CHECKPOINTS
    restored = checkpoints.restore(directory, like, part=part)
    if restored is None:
        raise checkpoints.CheckpointError(
            f"Expected a run with a checkpoint, got run_dir={str(run_dir)!r}."
        )
    return restored.tree


def _leaves(tree: Params) -> list[tuple[Any, jax.Array]]:
    return jax.tree_util.tree_leaves_with_path(tree)


def _narrow(leaf: np.ndarray, dtype: Any) -> np.ndarray:
    """Return what is kept in float32 at least in the dtype of the parameters."""
    wide = jnp.promote_types(dtype, jnp.float32)
    return leaf.astype(dtype) if leaf.dtype == wide else leaf
