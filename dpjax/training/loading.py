"""The parameters of a run, from its folder."""

import pathlib

import jax

from dpjax.training import checkpoints, folder
from dpjax.training.step import at_least_float32
from dpjax.types import Params


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
    directory = pathlib.Path(run_dir) / folder.CHECKPOINTS
    name = "average" if average else "params"
    stored = jax.tree.map(at_least_float32, like) if average else like
    found = checkpoints.restore(directory, stored, below=f"['state'].{name}")
    if found is None:
        raise checkpoints.CheckpointError(
            f"Expected a run with a checkpoint, got run_dir={str(run_dir)!r}."
        )
    return jax.tree.map(lambda leaf, p: leaf.astype(p.dtype), found.tree, like)
