"""Checkpoints written by a thread of their own while training goes on."""

import pathlib
from concurrent import futures
from typing import Any

import jax
import numpy as np

from dpjax import _files
from dpjax.training import checkpoints, fingerprint
from dpjax.types import ArrayTree


class Writer:
    """Writes the checkpoints of one run, one at a time.

    `hand_over` copies the state to the host and returns; what follows (reserving space,
    Orbax, hashes, flushing, the one move that makes it a checkpoint, dropping the
    oldest) is done by the thread. So a checkpoint is whole or not there, as without a
    thread, and at most one copy of the state waits to be written.

    Args:
      directory: where all checkpoints of the run are.
      keep: how many of the newest stay.
      lines: metrics.jsonl, which is flushed before a checkpoint that refers to it.
    """

    def __init__(self, directory: pathlib.Path, keep: int, lines: pathlib.Path) -> None:
        """Start the thread."""
        self._directory, self._keep, self._lines = directory, keep, lines
        self._pool = futures.ThreadPoolExecutor(1, "dpjax-checkpoints")
        self._pending: futures.Future[None] | None = None

    def hand_over(self, step: int, tree: ArrayTree, record: dict[str, Any]) -> None:
        """Have a checkpoint written, once the one before is on the disk.

        Args:
          step: number of steps done.
          tree: pytree of arrays; it may be changed or deleted afterwards.
          record: JSON object to keep with them.

        Raises:
          CheckpointError: the one before could not be written.
        """
        leaves = [_own(leaf) for leaf in fingerprint.host_leaves(tree).values()]
        copy = jax.tree.unflatten(jax.tree.structure(tree), leaves)
        self.settle()
        self._pending = self._pool.submit(self._write, step, copy, record)

    def settle(self) -> None:
        """Wait until all that was handed over is on the disk.

        Raises:
          CheckpointError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait, and end the thread; what went wrong and was not raised is dropped."""
        self._pool.shutdown()

    def _write(self, step: int, tree: ArrayTree, record: dict[str, Any]) -> None:
        try:
            if self._lines.exists():
                _files.synchronize(self._lines)
        except OSError as error:
            raise checkpoints.CheckpointError(
                f"Expected lines that can be flushed, got {str(self._lines)!r}: {error}"
            ) from error
        checkpoints.save(self._directory, step, tree, record, keep=self._keep)


def _own(leaf: np.ndarray) -> np.ndarray:
    """Return an array whose memory nobody else writes to: a view is copied."""
    return leaf.copy() if leaf.flags.writeable or leaf.base is not None else leaf
