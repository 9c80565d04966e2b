"""Where a run's examples come from: arrays, or a source that is read row by row.

A source gives the rows of each chunk of indices, in the order of the steps, and nothing
else is read of it. Which rows those are is a pure function of (key, step), so that a
run goes on from any step with the rows that it would have had.

A resumed run knows its data again by a hash that only the holder of the run's key can
compute. Of arrays in memory it covers every byte. Of mapped files and records, which
may be too many to be read, it covers their number, the shapes and dtypes, what a source
says of itself (its attribute `fingerprint`, else its `repr` without addresses), and
1024 examples that the key draws. So other data of the same shapes are told apart, and
so is a change of every hundredth example (but for 3 times in 100,000); a change of a
few among very many is not, unless `fingerprint` (a checksum of the files, a version)
says so.
"""

import abc
import importlib
import mmap
from collections.abc import Generator, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from dpjax import _check
from dpjax.sampling import IndexChunk
from dpjax.training import fingerprint
from dpjax.types import ArrayTree


class DataError(RuntimeError):
    """A record could not be read, or is not like the others."""


class Chunk(NamedTuple):
    """A part of one step's batch, read.

    Attributes:
      rows: tuple of pytrees of arrays `(chunk_size, ...)`: what the loss takes after
        the parameters. Padded places hold the first example.
      mask: bool, `(chunk_size,)`: False where padded.
    """

    rows: tuple[ArrayTree, ...]
    mask: Any


class Source(abc.ABC):
    """The examples of a run.

    Attributes:
      num_examples: how many there are.
      example: the first, a tuple of pytrees of arrays without a leading axis.
    """

    num_examples: int
    example: tuple[ArrayTree, ...]

    @abc.abstractmethod
    def rows(self, indices: np.ndarray) -> tuple[ArrayTree, ...]:
        """Return the examples at `indices`, `(n,)`, as arrays `(n, ...)`."""

    @abc.abstractmethod
    def batches(self, steps: Iterable[list[IndexChunk]]) -> Generator[list[Chunk]]:
        """Yield the chunks of each step, read."""

    @abc.abstractmethod
    def digest(self, key_words: jax.Array) -> str:
        """Return a keyed hash by which a resumed run knows its data again."""

    def chunk_shapes(self, chunk_size: int) -> Chunk:
        """Return the shapes and dtypes of every chunk of `chunk_size` rows."""

        def of_chunk(leaf: np.ndarray) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((chunk_size, *leaf.shape), leaf.dtype)

        mask = jax.ShapeDtypeStruct((chunk_size,), bool)
        return Chunk(jax.tree.map(of_chunk, self.example), mask)


class ArraySource(Source):
    """Arrays with the examples along their first axis, in memory or mapped from a file.

    Args:
      arrays: tuple of pytrees of NumPy arrays `(num_examples, ...)`.
    """

    def __init__(self, arrays: tuple[ArrayTree, ...]) -> None:
        self._arrays = arrays
        self.num_examples = len(jax.tree.leaves(arrays)[0])
        self.example = jax.tree.map(lambda leaf: np.asarray(leaf[0]), arrays)

    def rows(self, indices: np.ndarray) -> tuple[ArrayTree, ...]:
        """Return the examples at `indices`, `(n,)`, as arrays `(n, ...)`."""
        return jax.tree.map(lambda leaf: leaf[indices], self._arrays)

    def batches(self, steps: Iterable[list[IndexChunk]]) -> Generator[list[Chunk]]:
        """Yield the chunks of each step; one is gathered when it is asked for.

        The loop asks for a step while the device still works on the one before.
        """
        for chunks in steps:
            yield [Chunk(self.rows(indices), mask) for indices, mask in chunks]

    def digest(self, key_words: jax.Array) -> str:
        """Return a keyed hash of all examples, or of some if they are on the disk."""
        leaves = jax.tree.leaves(self._arrays)
        if not any(map(_is_mapped, leaves)):
            return fingerprint.data_digest(self._arrays, key_words)
        table = fingerprint.leaf_table(fingerprint.host_leaves(self._arrays))
        return fingerprint.sampled_digest(
            self.rows, self.num_examples, [str(table)], key_words
        )


def open_source(data: Any, num_examples: int) -> Source:
    """Return what reads `data`.

    Args:
      data: see `fit`.
      num_examples: how many examples the mechanism counts on.

    Raises:
      ValueError: leading axes differ, or there are not `num_examples` examples.
      TypeError: a source among arrays, or one that has no random access.
      DataError: Grain is missing, or the first record cannot be read.
    """
    if _is_source(data):
        found, what = len(data), "its length"
    else:
        batch = data if type(data) is tuple else (data,)
        for leaf in jax.tree.leaves(batch):
            _check_array(leaf)
        found, what = _check.leading_axis("data", batch), "its leading axis"
    if found != num_examples:
        expected = f"data of the mechanism's num_examples={num_examples}"
        _check.fail(expected, what, found)
    if _is_source(data):
        return _record_source(data)
    return ArraySource(jax.tree.map(np.asarray, batch))


def _record_source(data: Any) -> Source:
    try:
        reading = importlib.import_module("dpjax.training.reading")
    except ModuleNotFoundError as error:
        raise DataError(
            "Expected Grain, which reads records (pip install 'dpjax[train]'), got a "
            "Python without it."
        ) from error
    return reading.RecordSource(data)


def _is_source(data: Any) -> bool:
    """Tell whether `data` is read by index, and no array nor a tree of arrays."""
    if hasattr(data, "__array__") or not jax.tree_util.all_leaves([data]):
        return False
    readable = hasattr(data, "__len__") and hasattr(data, "__getitem__")
    return readable and not isinstance(data, str | bytes)


def _check_array(leaf: Any) -> None:
    """Refuse what NumPy would read record by record to make it an array."""
    if hasattr(leaf, "__array__") or np.isscalar(leaf):
        return
    expected = "arrays, or one source with __len__ and __getitem__ whose records are "
    expected += "examples (tuples, say)"
    _check.fail(expected, "data with", type(leaf).__name__, TypeError)


def _is_mapped(leaf: Any) -> bool:
    """Tell whether an array's memory is a file's."""
    while leaf is not None:
        if isinstance(leaf, np.memmap | mmap.mmap):
            return True
        leaf = getattr(leaf, "base", None)
    return False
