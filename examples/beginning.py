"""The parameters of another run, to begin with: as private as that run was."""

import json
import pathlib

from dpjax import accounting, training
from dpjax.training import folder
from dpjax.types import Params

CAUTION = (
    "Begun where another run ended: what that run spent of the same data is not in "
    "this epsilon."
)
"""To be said where no budget has both."""


def begun_with(
    run_dir: str, params: Params, shared: accounting.FilterFile | None
) -> Params:
    """Return the parameters that a run released, to go on from.

    Args:
        run_dir: Its folder.
        params: Pytree of the parameters' structure, shapes and dtypes.
        shared: The budget of the run that begins; the other one must have been charged
            to it, so that what is promised of both together holds.

    Raises:
        FlagError: If the run was not private, or not charged to the budget.
        RunFolderError: If the folder has no run, or a damaged one.
        CheckpointError: If it has no parameters like these.
    """
    try:
        config, private = (
            json.loads((pathlib.Path(run_dir) / name).read_text())
            for name in (folder.CONFIG, folder.PRIVATE)
        )
        is_private, charge = config["private"], private.get("charge")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise folder.RunFolderError(
            f"Expected the folder of a run ({error}), got --start_from={run_dir!r}."
        ) from error
    if is_private is not True:
        raise training.FlagError(
            "Expected a private run to begin with, got one without privacy, "
            f"--start_from={run_dir!r}."
        )
    if shared is not None and charge not in shared.snapshot().digests:
        raise training.FlagError(
            f"Expected a run that shares --budget_file={str(shared.path)!r} to begin "
            f"with, got --start_from={run_dir!r}."
        )
    return training.load_params(run_dir, params)
