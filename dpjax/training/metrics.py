"""metrics.jsonl: one line a logged step, the same bytes whenever the run is the same.

A line holds no clock. What touches private data without noise (losses of training
examples, gradient norms, the size of a Poisson draw) stands under "not_private".
"""

import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from dpjax import _files

FEWEST = 10
"""Of fewer examples no quantiles are told: they would be the examples' own values."""

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Quantiles of the gradient norms that are logged."""


class MetricsError(ValueError):
    """metrics.jsonl is not what the checkpoint says it was."""


class Mark(NamedTuple):
    """How far metrics.jsonl went when a checkpoint was written."""

    size: int
    sha256: str


EMPTY = Mark(0, hashlib.sha256().hexdigest())
"""Before the first line."""


class Lines:
    """The lines of a run, hashed as they come; without a file they stay in memory.

    With a file nothing grows but the file, and a checkpoint of a long run does not read
    all of it again.

    Args:
      path: metrics.jsonl, empty or not there yet, or None.
    """

    def __init__(self, path: pathlib.Path | None) -> None:
        """Begin without a line."""
        self._path = path
        self._kept: list[bytes] = []
        self._size, self._digest = 0, hashlib.sha256()
        self.last: dict[str, Any] | None = None

    def go_on(self, at: Mark) -> None:
        """Take up the file where a checkpoint left it; what came later is dropped.

        Raises:
          MetricsError: what stood there then is no longer there.
        """
        if self._path is None:
            return
        content = cut(self._path, at)
        self._size, self._digest = len(content), hashlib.sha256(content)
        rows = content.splitlines()
        self.last = json.loads(rows[-1]) if rows else None

    def beyond(self, at: Mark) -> bool:
        """Tell whether the file has lines that came after a checkpoint."""
        path = self._path
        return path is not None and path.exists() and path.stat().st_size > at.size

    def add(self, line: dict[str, Any]) -> dict[str, Any]:
        """Write one line; return it as JSON holds it."""
        content = _files.encode(line)
        if self._path is None:
            self._kept.append(content)
        else:
            _files.append(self._path, content)
        self._size += len(content)
        self._digest.update(content)
        self.last = json.loads(content)
        return self.last

    @property
    def mark(self) -> Mark:
        """Return how far the lines go."""
        return Mark(self._size, self._digest.hexdigest())

    def all(self) -> list[dict[str, Any]]:
        """Return every line as a JSON object."""
        kept = self._kept
        if self._path is not None:
            kept = self._path.read_bytes().splitlines() if self._path.exists() else []
        return [json.loads(line) for line in kept]


def cut(path: pathlib.Path, at: Mark) -> bytes:
    """Drop the lines written after a checkpoint, in one move.

    Args:
      path: the file.
      at: where it ended when the checkpoint was written.

    Returns:
      What is left.

    Raises:
      MetricsError: what stood there then is no longer there.
    """
    content = path.read_bytes() if path.exists() else b""
    kept = content[: at.size]
    if hashlib.sha256(kept).hexdigest() != at.sha256:
        raise MetricsError(
            f"Expected the first {at.size} bytes to be those of the checkpoint, got "
            f"another {path.name}={str(path)!r}."
        )
    if kept != content or not path.exists():
        _files.replace(path, kept)
    return kept


class ChunkRecord(NamedTuple):
    """Raw quantities of the examples of one chunk. Never private.

    Attributes:
      mask: which rows are examples, `(chunk_size,)`.
      loss: `(chunk_size,)`, or None.
      grad_norm: before clipping, `(chunk_size,)`, or None.
    """

    mask: Any
    loss: Any
    grad_norm: Any


def not_private(
    records: list[ChunkRecord], clip_norm: Any, non_finite: int
) -> dict[str, Any]:
    """Summarise one step's raw per-example quantities.

    Args:
      records: one a chunk.
      clip_norm: the clip norm when it is one number; the share of clipped examples is
        known only then.
      non_finite: examples since the start whose loss or gradient was not finite. They
        contribute nothing to a private sum, so they must be seen here.

    Returns:
      A JSON object. What no example gives, or one alone, is None, and quantiles are
      those of `FEWEST` examples at least: nobody's own values are told. A loss that is
      not finite shows.
    """
    loss, norms = (_examples(records, name) for name in ("loss", "grad_norm"))
    one_norm = isinstance(clip_norm, int | float)
    quantiles = QUANTILES if len(norms) >= FEWEST else ()
    with np.errstate(all="ignore"):
        return {
            "train_loss": float(loss.mean()) if len(loss) > 1 else None,
            "batch_size": int(sum(np.sum(record.mask) for record in records)),
            "non_finite_examples": non_finite,
            "fraction_clipped": (
                float(np.mean(norms > clip_norm))
                if len(norms) > 1 and one_norm
                else None
            ),
            "grad_norm_quantiles": {
                str(q): float(np.quantile(norms, q)) for q in quantiles
            },
        }


def _examples(records: list[ChunkRecord], name: str) -> np.ndarray:
    """Return one quantity of all examples that are not padding, in float64."""
    parts = [
        np.asarray(getattr(record, name), np.float64)[np.asarray(record.mask)]
        for record in records
        if getattr(record, name) is not None
    ]
    return np.concatenate(parts) if parts else np.zeros(0)
