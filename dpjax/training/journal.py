"""What a run writes down as it goes: metrics, checkpoints and the summary.

Without a run folder the metrics are kept in memory and nothing is written.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from dpjax import _files, accounting
from dpjax.training import checkpoints, folder, metrics
from dpjax.training.plan import Plan
from dpjax.training.step import TrainState


@dataclasses.dataclass
class Journal:
    """The records of one run.

    Attributes:
      path: the run folder, or None.
      plan: the run.
      history: the lines of metrics so far, as JSON objects.
      notes: what a person should know about how the run was taken up.
    """

    path: pathlib.Path | None
    plan: Plan
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    _began: float = dataclasses.field(default_factory=time.monotonic)
    _saved_step: int | None = None

    def start(self) -> TrainState:
        """Begin the run, or take it up at its last whole checkpoint.

        Returns:
          The state to go on from.
        """
        if self.path is None:
            return self.plan.state
        checkpoints.require_orbax()
        if not self.plan.request.resume:
            folder.begin(self.path, self.plan.config, self.plan.private)
            return self.plan.state
        return self._take_up(self.path)

    def _take_up(self, path: pathlib.Path) -> TrainState:
        private = self.plan.private
        saved = folder.check_same(path, self.plan.config, private["data"])
        self.notes += saved.notes
        directory = path / folder.CHECKPOINTS
        found = checkpoints.restore(directory, self._tree(self.plan.state))
        if found is None:
            name = "initial_parameters"
            if saved.private.get(name) != private[name]:
                raise folder.ResumeError(
                    "Expected the initial parameters that the run was begun with (it "
                    "has no checkpoint yet), got others."
                )
            metrics.cut(path / folder.METRICS, metrics.EMPTY)
            return self.plan.state
        if not np.array_equal(found.tree["key_words"], self.plan.key_words):
            raise folder.ResumeError(
                "Expected a checkpoint of this run, got one with another key in "
                f"{str(directory)!r}."
            )
        self.notes += found.refused
        self.notes.append(f"going on from step {found.step}")
        metrics.cut(path / folder.METRICS, metrics.Mark(**found.record["metrics"]))
        lines = (path / folder.METRICS).read_text().splitlines()
        self.history = [json.loads(line) for line in lines]
        self._began -= found.record["elapsed_seconds"]
        self._saved_step = found.step
        return found.tree["state"]

    def log(self, line: dict[str, Any]) -> dict[str, Any]:
        """Add one line of metrics; return it as JSON holds it."""
        content = _files.encode(line)
        if self.path is not None:
            _files.append(self.path / folder.METRICS, content)
        self.history.append(json.loads(content))
        return self.history[-1]

    def save(self, state: TrainState) -> None:
        """Write a checkpoint, unless this step has one."""
        step = int(state.steps)
        if self.path is None or step == self._saved_step:
            return
        mark = metrics.mark(self.path / folder.METRICS)
        record = {"metrics": mark._asdict(), "elapsed_seconds": self.elapsed_seconds}
        keep = self.plan.request.checkpointing.keep
        directory = self.path / folder.CHECKPOINTS
        checkpoints.save(directory, step, self._tree(state), record, keep=keep)
        self._saved_step = step

    def finish(
        self, summary: dict[str, Any], ledger: accounting.PrivacyLedger
    ) -> dict[str, Any]:
        """Write ledger.json and summary.json; return the summary as JSON holds it."""
        content = _files.encode(summary, indent=2)
        if self.path is not None:
            ledger.save(self.path / folder.LEDGER)
            _files.replace(self.path / folder.SUMMARY, content)
        return json.loads(content)

    @property
    def elapsed_seconds(self) -> float:
        """Return the seconds of training, those before a resume included."""
        return time.monotonic() - self._began

    def metrics_digest(self) -> str:
        """Return the sha256 of metrics.jsonl, or of what it would hold."""
        content = b"".join(_files.encode(line) for line in self.history)
        return hashlib.sha256(content).hexdigest()

    def _tree(self, state: TrainState) -> dict[str, Any]:
        return {"state": state, "key_words": self.plan.key_words}


@contextlib.contextmanager
def opened(plan: Plan) -> Iterator[Journal]:
    """Open the run folder for one process at a time."""
    path = plan.request.run_dir
    with contextlib.nullcontext() if path is None else folder.locked(path):
        yield Journal(path, plan)
