"""What a run writes down as it goes: metrics, checkpoints and the summary.

Without a run folder the metrics are kept in memory and nothing is written.
"""

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from dpjax import _files, accounting
from dpjax.training import charging, checkpoints, folder, metrics, record
from dpjax.training.background import Writer
from dpjax.training.plan import Plan
from dpjax.training.state import TrainState


class Journal:
    """The records of one run.

    Args:
      path: the run folder, or None.
      plan: the run.

    Attributes:
      path: the run folder, or None.
      plan: the run.
      notes: what a person should know about how the run was taken up.
    """

    def __init__(self, path: pathlib.Path | None, plan: Plan) -> None:
        """Start the clock."""
        self.path, self.plan = path, plan
        self.notes: list[str] = []
        self._began = time.monotonic()
        self._saved_step: int | None = None
        self._first = plan.private["initial_parameters"]
        self._lines = metrics.Lines(None if path is None else path / folder.METRICS)
        self._writer: Writer | None = None
        if path is not None:
            keep = plan.request.checkpointing.keep
            directory = path / folder.CHECKPOINTS
            self._writer = Writer(directory, keep, path / folder.METRICS)

    def start(self) -> TrainState:
        """Begin the run, or take it up at its last whole checkpoint.

        Returns:
          The state to go on from.
        """
        if self.path is None:
            charging.charge(self.plan)
            return self.plan.state
        checkpoints.require_orbax()
        if not self.plan.request.resume:
            folder.check_free(self.path)
            private = self.plan.private | {"charge": charging.charge(self.plan)}
            folder.begin(self.path, self.plan.config, private)
            return self.plan.state
        return self._take_up(self.path)

    def _take_up(self, path: pathlib.Path) -> TrainState:
        private = self.plan.private
        saved = folder.check_same(path, self.plan.config, private["data"])
        charging.check_charged(self.plan, saved.private.get("charge"))
        self.notes += saved.notes
        directory = path / folder.CHECKPOINTS
        found = checkpoints.restore(directory, self._tree(self.plan.state))
        self._first = saved.private.get("initial_parameters")
        if found is None:
            self._check_replayed(saved.config, metrics.EMPTY)
            if self._first != private["initial_parameters"]:
                raise folder.ResumeError(
                    "Expected the initial parameters that the run was begun with (it "
                    "has no checkpoint yet), got others."
                )
            self._lines.go_on(metrics.EMPTY)
            return self.plan.state
        self._check_own(directory, found)
        mark = metrics.Mark(**found.record["metrics"])
        self._check_replayed(found.record["config"], mark)
        self.notes += found.refused
        self.notes.append(f"going on from step {found.step}")
        self._lines.go_on(mark)
        self._began -= found.record["elapsed_seconds"]
        self._saved_step = found.step
        return found.tree["state"]

    def _check_replayed(self, config: dict[str, Any], mark: metrics.Mark) -> None:
        """Refuse to release a step again where its numbers may be others now.

        Args:
          config: what the run was when the checkpoint was written.
          mark: where the metrics ended then.
        """
        changed = folder.changed_versions(config, self.plan.config)
        if changed and self._lines.beyond(mark):
            raise folder.ResumeError(
                "Expected the versions that the run was stopped with, since what was "
                "released after its last checkpoint may come out otherwise now and "
                f"would be released twice, got others: {'; '.join(changed)}"
            )

    def _check_own(self, path: pathlib.Path, found: checkpoints.Restored) -> None:
        """Refuse a checkpoint of another run, by the difference."""
        now = record.belonging(self.plan, found.step, self._first)
        different = record.differences(found.record, now)
        if not np.array_equal(found.tree["key_words"], self.plan.key_words):
            different = ["one with another key"]
        if different:
            raise folder.ResumeError(
                f"Expected a checkpoint of this run, got {path.name}={str(path)!r}: "
                + "; ".join(different)
            )

    def log(self, line: dict[str, Any]) -> dict[str, Any]:
        """Add one line of metrics; return it as JSON holds it."""
        return self._lines.add(line)

    def save(self, state: TrainState, *, wait: bool = False) -> None:
        """Have a checkpoint written, unless this step has one.

        Args:
          state: after the step.
          wait: whether to wait until it is on the disk, as after the last step.

        Raises:
          CheckpointError: it, or the one before, could not be written.
        """
        step = int(state.steps)
        if self._writer is not None and step != self._saved_step:
            own = record.belonging(self.plan, step, self._first)
            so_far = record.progress(self._lines.mark, self.elapsed_seconds)
            self._writer.hand_over(step, self._tree(state), own | so_far)
            self._saved_step = step
        if wait or step == self.plan.last_step:
            self.settle()

    def settle(self) -> None:
        """Wait until every checkpoint is on the disk.

        Raises:
          CheckpointError: the last one could not be written.
        """
        if self._writer is not None:
            self._writer.settle()

    def close(self) -> None:
        """Wait for what is being written, whatever comes of it."""
        if self._writer is not None:
            self._writer.close()

    def finish(
        self, summary: dict[str, Any], ledger: accounting.PrivacyLedger
    ) -> dict[str, Any]:
        """Write ledger.json and summary.json; return the summary as JSON holds it."""
        self.settle()
        content = _files.encode(summary, indent=2)
        if self.path is not None:
            ledger.save(self.path / folder.LEDGER)
            _files.replace(self.path / folder.SUMMARY, content)
        return json.loads(content)

    @property
    def elapsed_seconds(self) -> float:
        """Return the seconds of training, those before a resume included."""
        return time.monotonic() - self._began

    @property
    def last(self) -> dict[str, Any] | None:
        """Return the last line of metrics."""
        return self._lines.last

    @property
    def history(self) -> list[dict[str, Any]]:
        """Return all lines of metrics."""
        return self._lines.all()

    def metrics_digest(self) -> str:
        """Return the sha256 of metrics.jsonl, or of what it would hold."""
        return self._lines.mark.sha256

    def _tree(self, state: TrainState) -> dict[str, Any]:
        return {"state": state, "key_words": self.plan.key_words}


@contextlib.contextmanager
def opened(plan: Plan) -> Iterator[Journal]:
    """Open the run folder for one process at a time.

    It is left when all that was handed over is on the disk. Where a run ends by an
    error, a checkpoint that could not be written besides is told in a note.
    """
    path = plan.request.run_dir
    with contextlib.nullcontext() if path is None else folder.locked(path):
        records = Journal(path, plan)
        try:
            yield records
            records.settle()
        except BaseException as error:
            try:
                records.settle()
            except checkpoints.CheckpointError as failure:
                error.add_note(str(failure))
            raise
        finally:
            records.close()
