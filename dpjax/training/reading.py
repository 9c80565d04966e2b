"""Examples that are read one by one, ahead of the step that needs them, by Grain.

Only `sources.open_source` imports this module, and only for such data: Grain is in the
extra `train`, and takes a while to import.
"""

import collections
import sys
import threading
from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check
from dpjax.sampling import IndexChunk
from dpjax.training import fingerprint
from dpjax.training.sources import Chunk, DataError, Source
from dpjax.types import ArrayTree

_THREADS = 16
"""Threads that read; the rows of a chunk are cut into as many blocks."""

_AHEAD = 2 * _THREADS
"""Blocks that are read, or being read, before they are asked for: those of two chunks.
"""


class RecordSource(Source):
    """A Grain random-access source of which a record is an example.

    Rows are read in Grain's threads, in the order of the steps, at most two chunks (and
    the rest of a step) ahead: memory follows the batch. Padded places are not read.

    Args:
      data: `grain.MapDataset`, or anything with `__len__` and `__getitem__` (which must
        be thread-safe and give the same record whenever it is asked).

    Raises:
      DataError: the first record cannot be read, or is no pytree of arrays.
      ValueError: a dataset that repeats its records.
    """

    def __init__(self, data: Any) -> None:
        _check_once_each(data)
        self._data = data
        self.num_examples = len(data)
        record = _as_tuple(_fetch(data, 0))
        self.example = jax.tree.map(np.asarray, record)
        leaves = jax.tree.leaves(self.example)
        self._structure: Any = jax.tree.structure(self.example)
        self._specs = [(leaf.shape, leaf.dtype) for leaf in leaves]
        if not leaves or not all(_is_number(leaf.dtype) for leaf in leaves):
            kinds = f"dtypes {[str(leaf.dtype) for leaf in leaves]}"
            raise DataError(f"Expected records that are trees of numbers, got {kinds}.")

    def rows(self, indices: np.ndarray) -> tuple[ArrayTree, ...]:
        """Return the examples at `indices`, `(n,)`, as arrays `(n, ...)`."""
        steps = self.batches([[IndexChunk(indices, np.ones(len(indices), bool))]])
        return next(steps)[0].rows

    def batches(self, steps: Iterable[list[IndexChunk]]) -> Generator[list[Chunk]]:
        """Yield the chunks of each step; rows of the next are read meanwhile."""
        wanted = _Wanted(self, iter(steps))
        options = grain.ReadOptions(_THREADS, _AHEAD)
        blocks = iter(grain.MapDataset.source(wanted).to_iter_dataset(options))
        try:
            while (step := wanted.next_step()) is not None:
                for _ in range(step.num_blocks):
                    next(blocks)
                yield step.chunks
        finally:
            blocks.close()

    def digest(self, key_words: jax.Array) -> str:
        """Return a keyed hash of what the source says of itself and of some records."""
        of_itself = getattr(self._data, "fingerprint", None)
        described = [type(self._data).__qualname__, str(of_itself or repr(self._data))]
        described += [str(self._structure), str(self._specs)]
        return fingerprint.sampled_digest(
            self.rows, self.num_examples, described, key_words
        )

    def empty_rows(self, chunk_size: int) -> tuple[ArrayTree, ...]:
        """Return the rows of a chunk, all of them the first example as yet."""
        return jax.tree.map(
            lambda leaf: np.repeat(leaf[None], chunk_size, 0), self.example
        )

    def read(self, block: "_Block") -> int:
        """Read the rows of a block into their places; return how many there are."""
        for place, index in zip(block.places, block.indices, strict=True):
            record = self._leaves(int(index))
            for row, leaf in zip(block.leaves, record, strict=True):
                row[place] = leaf
        return len(block.places)

    def _leaves(self, index: int) -> list[np.ndarray]:
        leaves, structure = jax.tree.flatten(_as_tuple(_fetch(self._data, index)))
        if structure != self._structure:
            raise DataError(
                f"Expected all records of the structure {self._structure}, got record "
                f"{index} of {structure}."
            )
        arrays = [np.asarray(leaf) for leaf in leaves]
        found = [(array.shape, array.dtype) for array in arrays]
        if found != self._specs:
            expected, got = (
                [f"{dtype}{list(shape)}" for shape, dtype in specs]
                for specs in (self._specs, found)
            )
            raise DataError(
                f"Expected all records to have arrays {expected}, got record {index} "
                f"with {got}."
            )
        return arrays


class _Block(NamedTuple):
    """Some rows of a chunk: read by one thread, into the chunk's arrays."""

    leaves: list[np.ndarray]
    places: np.ndarray
    indices: np.ndarray


class _Step(NamedTuple):
    """The chunks of a step, which are whole once so many blocks have been read."""

    chunks: list[Chunk]
    num_blocks: int


class _Wanted:
    """The blocks of a run as a sequence, drawn only as far as it is asked for.

    How many there are is not known ahead (a Poisson draw has no fixed size); what lies
    beyond the last is asked for by nobody but the read-ahead, which gets None.
    """

    def __init__(self, source: RecordSource, steps: Iterator[list[IndexChunk]]) -> None:
        self._source, self._draws = source, steps
        self._lock = threading.Lock()
        self._steps: collections.deque[_Step] = collections.deque()
        self._blocks: dict[int, _Block] = {}
        self._count = 0

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, position: int) -> int | None:
        with self._lock:
            while position >= self._count and self._draw():
                pass
            block = self._blocks.pop(position, None)
        return None if block is None else self._source.read(block)

    def next_step(self) -> _Step | None:
        """Return the next step, whose blocks are yet to be waited for."""
        with self._lock:
            if not self._steps:
                self._draw()
            return self._steps.popleft() if self._steps else None

    def _draw(self) -> bool:
        """Draw one more step; tell whether there was one."""
        drawn = next(self._draws, None)
        if drawn is None:
            return False
        first, chunks = self._count, []
        for indices, mask in drawn:
            rows = self._source.empty_rows(len(mask))
            self._cut(jax.tree.leaves(rows), indices, mask)
            chunks.append(Chunk(rows, mask))
        self._steps.append(_Step(chunks, self._count - first))
        return True

    def _cut(
        self, leaves: list[np.ndarray], indices: np.ndarray, mask: np.ndarray
    ) -> None:
        places = np.flatnonzero(mask)
        for part in np.array_split(places, min(_THREADS, max(1, len(places)))):
            if part.size:
                self._blocks[self._count] = _Block(leaves, part, indices[part])
                self._count += 1


def _is_number(dtype: np.dtype) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in (np.number, np.bool_))


def _as_tuple(record: Any) -> tuple[ArrayTree, ...]:
    return record if type(record) is tuple else (record,)


def _fetch(data: Any, index: int) -> Any:
    try:
        record = data[index]
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(
            f"Expected record {index} of {len(data)} to be readable, got {reason}."
        ) from error
    if record is None:
        raise DataError(
            f"Expected a record at every index, got None at {index} (a filter, say)."
        )
    return record


def _check_once_each(data: Any) -> None:
    """Refuse a dataset in which one example has several indices."""
    if type(data).__name__ == "RepeatMapDataset":
        expected = "data that has each example once (its indices are drawn as examples)"
        _check.fail(expected, "data", str(data))
    if isinstance(data, grain.MapDataset):
        for parent in data.parents:
            _check_once_each(parent)
