"""Batches for a mesh: each process reads the rows of its own devices, and no others.

All processes draw the same indices from the same key. Chunks are padded to a number of
rows that devices share evenly; a device whose rows are all padding adds zero to the
sum, and takes as long as the others.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from dpjax import _check
from dpjax.sampling import IndexChunk
from dpjax.training.placement import Layout
from dpjax.training.sources import Chunk


def num_rows(layout: Layout, chunk_size: int, microbatch_size: Any) -> int:
    """Return the rows of a chunk on all devices together: as many on each.

    Args:
      layout: has the devices.
      chunk_size: rows that the mechanism fills.
      microbatch_size: examples at a time on each device, or None.

    >>> from dpjax.training.placement import SINGLE
    >>> num_rows(SINGLE, 10, 4)
    10
    """
    if layout.mesh is None:
        return chunk_size
    each = -(-chunk_size // layout.num_devices)
    if microbatch_size is None:
        return each * layout.num_devices
    if _check.integer("microbatch_size", microbatch_size, minimum=1) < each:
        each = -(-each // microbatch_size) * microbatch_size
    return each * layout.num_devices


def own_rows(
    layout: Layout, steps: Iterable[list[IndexChunk]], rows: int
) -> Iterator[list[IndexChunk]]:
    """Yield, for each step, the part of its chunks that this process reads.

    Args:
      layout: has the devices.
      steps: what the mechanism's `batches` yields.
      rows: of a chunk on all devices; see `num_rows`.
    """
    if layout.mesh is None:
        yield from steps
        return
    places = np.concatenate([np.arange(*part) for part in _parts(layout, rows)])
    for chunks in steps:
        yield [
            IndexChunk(_padded(indices, rows)[places], _padded(mask, rows)[places])
            for indices, mask in chunks
        ]


def assembled(layout: Layout, chunks: list[Chunk], rows: int) -> list[Chunk]:
    """Return chunks that are split over the devices.

    Args:
      layout: has the devices.
      chunks: of one step, as read by `own_rows`.
      rows: of a chunk on all devices.
    """
    if layout.mesh is None:
        return chunks
    first, found = 0, {}
    for start, stop in _parts(layout, rows):
        found[start] = slice(first, first + stop - start)
        first += stop - start

    def spread(leaf: Any) -> jax.Array:
        leaf = np.asarray(leaf)

        def part(index: Any) -> np.ndarray:
            return leaf[found[index[0].indices(rows)[0]]]

        shape = (rows, *leaf.shape[1:])
        return jax.make_array_from_callback(shape, layout.by_rows, part)

    return jax.tree.map(spread, chunks)


def _padded(values: np.ndarray, rows: int) -> np.ndarray:
    """Return values followed by zeros: the first example, masked out."""
    padding = np.zeros(rows - len(values), values.dtype)
    return np.concatenate([values, padding])


def _parts(layout: Layout, rows: int) -> list[tuple[int, int]]:
    """Return which rows the devices of this process hold, as [start, stop) pairs."""
    indices = layout.by_rows.addressable_devices_indices_map((rows,)).values()
    found = {index[0].indices(rows)[:2] for index in indices if index is not None}
    return sorted(found)
