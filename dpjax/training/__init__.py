"""The training loop: fit, checkpoints, metrics, progress, flags."""

from dpjax._files import WriteError
from dpjax.clipping.memory import MemoryBudgetError
from dpjax.training.catalogue import FlagError
from dpjax.training.checkpoints import CheckpointError, Checkpointing
from dpjax.training.flags import (
    apply_defaults,
    define_flags,
    flag_settings,
    read_flags,
)
from dpjax.training.folder import ResumeError, RunFolderError
from dpjax.training.interrupts import Interrupted
from dpjax.training.loading import load_params
from dpjax.training.loop import fit
from dpjax.training.metrics import MetricsError
from dpjax.training.options import Options
from dpjax.training.placement import Placement
from dpjax.training.processes import ProcessError, run_key
from dpjax.training.request import Logging
from dpjax.training.result import FitResult
from dpjax.training.sources import DataError

__all__ = [
    "CheckpointError",
    "Checkpointing",
    "DataError",
    "FitResult",
    "FlagError",
    "Interrupted",
    "Logging",
    "MemoryBudgetError",
    "MetricsError",
    "Options",
    "Placement",
    "ProcessError",
    "ResumeError",
    "RunFolderError",
    "WriteError",
    "apply_defaults",
    "define_flags",
    "fit",
    "flag_settings",
    "load_params",
    "read_flags",
    "run_key",
]
