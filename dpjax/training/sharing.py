"""What the flags of a budget that runs share mean: its file, and noise for its rest."""

import dataclasses
import os
import pathlib

from dpjax import _check, accounting
from dpjax.accounting.events import Relation
from dpjax.mechanism import PrivateBatches
from dpjax.training import folder, processes


def filter_file(
    path: str | os.PathLike[str],
    total: tuple[float | None, float | None],
    relation: Relation,
) -> accounting.FilterFile:
    """Return the budget in a file, which a `RenyiFilter` keeps.

    Args:
      path: the file.
      total: epsilon and delta of all runs; what the file says, where there is one.
      relation: which data sets are neighbours.
    """
    epsilon = _check.positive("--budget_epsilon", total[0])
    budget = accounting.Budget(epsilon, _check.open_unit("--delta", total[1]))
    new = accounting.RenyiFilter(budget, relation=relation)
    return accounting.FilterFile(path, new)


def with_rest(
    mechanism: PrivateBatches,
    shared: accounting.FilterFile,
    resumed: str | pathlib.Path | None,
) -> PrivateBatches:
    """Return a mechanism with the least noise that what is left of a budget admits.

    With several processes the first one looks; all call this.

    Args:
      mechanism: of the run, without its noise.
      shared: the budget.
      resumed: folder of the run that is gone on with, which has its noise already.

    Raises:
      AccountingError: next to nothing is left.
      RunFolderError: the run that is gone on with does not say its noise.
    """

    def noise() -> float | None:
        if resumed is None:
            return mechanism.calibrate_to(shared).noise_multiplier
        return _begun_with(resumed)

    multiplier = processes.from_first(noise)
    return dataclasses.replace(mechanism, noise_multiplier=multiplier)


def _begun_with(resumed: str | pathlib.Path) -> float:
    begun = folder.saved_settings(resumed, "mechanism")
    try:
        return _check.positive("noise_multiplier", begun.get("noise_multiplier"))
    except (TypeError, ValueError) as error:
        raise folder.RunFolderError(
            f"Expected a run with noise ({error}), got run_dir={str(resumed)!r}."
        ) from error
