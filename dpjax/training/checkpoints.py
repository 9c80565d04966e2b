"""Checkpoints of a run: written whole or not at all, checked when they are read.

A checkpoint is `<directory>/<step>/`; `background` writes it while training goes on. A
killed process or a full disk leaves the old checkpoints and a remnant that is cleared
away. The sha256 over every byte of every leaf is checked when a checkpoint is read: one
that is torn or altered is set aside, and the one before it is taken. Leaves are plain
arrays; nothing is ever unpickled.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpjax import _check, _files
from dpjax.training import fingerprint, storage
from dpjax.types import ArrayTree

_OVERHEAD_BYTES = 1 << 18
_REFUSED = ".refused"
_DELETED = ".deleted"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or none that is whole could be read."""


@dataclasses.dataclass(frozen=True)
class Checkpointing:
    """When to write checkpoints.

    Attributes:
      every: steps between checkpoints; one more is written at the end.
      keep: how many of the newest stay on the disk. With 2 or more, a checkpoint that
        turns out damaged has one before it.
    """

    every: int = 10
    keep: int = 2

    def __post_init__(self) -> None:
        """Check the settings."""
        _check.integer("every", self.every, minimum=1)
        _check.integer("keep", self.keep, minimum=1)


@dataclasses.dataclass(frozen=True)
class Restored:
    """What `restore` found.

    Attributes:
      step: the step of the checkpoint.
      tree: its pytree, of the structure that was asked for.
      record: the small JSON object that was saved with it.
      refused: one line for each newer checkpoint that was set aside, with the reason.
    """

    step: int
    tree: ArrayTree
    record: dict[str, Any]
    refused: tuple[str, ...]


def save(
    directory: pathlib.Path,
    step: int,
    tree: ArrayTree,
    record: dict[str, Any],
    *,
    keep: int,
) -> None:
    """Write `tree` and `record` as the checkpoint of `step`, then drop the oldest.

    Args:
      directory: where all checkpoints of the run are.
      step: number of steps done.
      tree: pytree of arrays, typed PRNG keys included.
      record: JSON object to keep with them.
      keep: how many checkpoints stay.

    Raises:
      CheckpointError: it could not be written (a full disk, say). Checkpoints written
        before are untouched, and nothing of this one is left.
    """
    require_orbax()
    path = directory.absolute() / str(step)
    leaves = fingerprint.host_leaves(tree)
    try:
        _clear_remnants(directory)
        _check_space(directory, leaves)
        storage.write(path, step, leaves, _files.plain(record))
    except Exception as error:
        with contextlib.suppress(OSError):
            _clear_remnants(directory)
        raise CheckpointError(
            "Expected to write a checkpoint (those before it are intact), got "
            f"{str(path)!r}: {_one_line(error)}"
        ) from error
    for old in steps(directory)[:-keep]:
        with contextlib.suppress(OSError):  # the next one tries again
            _remove(directory / str(old))


def restore(
    directory: pathlib.Path,
    like: ArrayTree,
    *,
    part: Callable[[storage.Leaves], storage.Leaves] = dict,
) -> Restored | None:
    """Read the newest whole checkpoint, or None where none was ever written.

    Args:
      directory: where all checkpoints of the run are.
      like: pytree of the structure, shapes and dtypes to give back.
      part: from all leaves, by name, to those to give back, by their names in `like`.

    Raises:
      CheckpointError: there are checkpoints, but none is whole; or the newest whole one
        holds other leaves than `like`.
    """
    require_orbax()
    refused: dict[pathlib.Path, str] = {}
    for step in reversed(steps(directory)):
        path = directory.absolute() / str(step)
        try:
            leaves, record = storage.read(path)
        except Exception as error:
            refused[path] = f"checkpoint {step} is damaged: {_one_line(error)}"
            continue
        tree = _unflatten(like, part(leaves), path)
        for damaged in refused:
            _set_aside(damaged)
        return Restored(step, tree, record, tuple(refused.values()))
    if refused:
        raise CheckpointError(
            f"Expected a whole checkpoint, got directory={str(directory)!r}: "
            + "; ".join(refused.values())
        )
    return None


def steps(directory: pathlib.Path) -> list[int]:
    """Return the steps of the checkpoints in `directory`, oldest first."""
    if not directory.is_dir():
        return []
    found = (path for path in directory.iterdir() if path.is_dir())
    return sorted(int(path.name) for path in found if path.name.isdecimal())


def require_orbax() -> None:
    """Raise when Orbax, which writes the checkpoints, is not installed.

    Raises:
      CheckpointError: the extra `train` is missing.
    """
    if not storage.AVAILABLE:
        raise CheckpointError(
            "Expected Orbax, which writes checkpoints (pip install 'dpjax[train]'), got"
            " a Python without it."
        )


def _unflatten(
    like: ArrayTree, leaves: storage.Leaves, path: pathlib.Path
) -> ArrayTree:
    expected = _table(like)
    found = fingerprint.leaf_table(leaves)
    for name in dict.fromkeys([*expected, *found]):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"Expected a checkpoint whose leaf {name} is {expected.get(name)}, got "
                f"{found.get(name)} in {str(path)!r}."
            )
    originals, structure = jax.tree.flatten(like)
    restored = [
        _to_device(a, leaves[b]) for a, b in zip(originals, expected, strict=True)
    ]
    return jax.tree.unflatten(structure, restored)


def _table(tree: ArrayTree) -> dict[str, str]:
    """Return dtype and shape of each leaf, without a copy of it to the host."""
    leaves: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        words = jax.random.key_data(leaf) if _is_key(leaf) else leaf
        leaves[jax.tree_util.keystr(path)] = words
    return fingerprint.leaf_table(leaves)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def _to_device(like: Any, leaf: Any) -> Any:
    if not isinstance(like, jax.Array):
        return leaf
    if _is_key(like):
        return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(like))
    if isinstance(like.sharding, jax.sharding.SingleDeviceSharding):
        return jnp.asarray(leaf)
    return jax.make_array_from_callback(leaf.shape, like.sharding, leaf.__getitem__)


def _set_aside(path: pathlib.Path) -> None:
    aside = path.with_name(path.name + _REFUSED)
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def _remove(path: pathlib.Path) -> None:
    """Delete a checkpoint so that no half of it keeps its name."""
    doomed = path.with_name(path.name + _DELETED)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _clear_remnants(directory: pathlib.Path) -> None:
    _files.make_folder(directory)
    for path in directory.iterdir():
        if storage.UNFINISHED in path.name or path.name.endswith(_DELETED):
            shutil.rmtree(path, ignore_errors=True)


def _check_space(directory: pathlib.Path, leaves: storage.Leaves) -> None:
    """Reserve the space for a moment: what cannot end well is not begun."""
    needed = sum(leaf.nbytes for leaf in leaves.values()) + _OVERHEAD_BYTES
    if not hasattr(os, "posix_fallocate"):
        free = shutil.disk_usage(directory).free
        if free < needed:
            raise OSError(f"{needed} bytes needed, {free} free on the disk")
        return
    with tempfile.TemporaryFile(dir=directory) as file:
        os.posix_fallocate(file.fileno(), 0, needed)


def _one_line(error: Exception) -> str:
    """Return the kind of an error and the end of its first line: the reason."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][-200:]}"
