"""One checkpoint directory: named arrays, a manifest, and the sha256 of both.

Orbax writes `leaves/` and `manifest/` under an unfinished name; SHA256SUMS (the format
of the sha256sum program) is added, all is closed to other users and flushed to the
disk, and the directory gets its name in one move. The arrays are stored under their
position ("00000", "00001", ...); the manifest says what each is called, so that any
Orbax program can read them.
"""

import contextlib
import hashlib
import json
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _files
from dpjax.training import fingerprint

try:
    import orbax.checkpoint as orbax
except ImportError:  # the extra `train` is not installed
    orbax = None

AVAILABLE = orbax is not None
"""Whether Orbax is installed."""

UNFINISHED = ".unfinished"
"""Part of the name of a directory that is being written."""

_SUMS = "SHA256SUMS"

_MANY = 64
"""Arrays above which all go into a few files (OCDBT) and not each into its own.

Some kilobytes of memory stay behind with each checkpoint written so, which would show
over the very many checkpoints of a small model.
"""

Leaves = dict[str, np.ndarray]


def write(path: pathlib.Path, step: int, leaves: Leaves, record: dict) -> None:
    """Write one checkpoint directory.

    Args:
      path: the directory, absolute; its parent exists.
      step: number of steps done.
      leaves: arrays by name.
      record: JSON object to keep with them.
    """
    manifest = {"step": step, "record": record}
    manifest["leaves"] = fingerprint.leaf_table(leaves)
    manifest["sha256"] = _digest(manifest, leaves)
    args = orbax.args.Composite(
        leaves=orbax.args.PyTreeSave(_by_position(leaves)),
        manifest=orbax.args.JsonSave(manifest),
    )
    unfinished = path.with_name(path.name + UNFINISHED)
    use_ocdbt = len(leaves) > _MANY
    with _without_needless_warning(), _checkpointer(use_ocdbt=use_ocdbt) as writer:
        writer.save(unfinished, args=args)
    sums = [
        f"{_file_digest(unfinished / name)}  {name}"
        for name in _names_below(unfinished)
    ]
    (unfinished / _SUMS).write_text("\n".join(sums) + "\n")
    _close_and_flush(unfinished)
    unfinished.rename(path)
    _files.synchronize(path.parent)


def read(path: pathlib.Path) -> tuple[Leaves, dict[str, Any]]:
    """Read one checkpoint directory: the arrays by name and the record.

    Raises:
      ValueError: the content does not match its hash or the directory's name.
      OSError: a file is missing or cannot be read.
    """
    for line in (path / _SUMS).read_text().splitlines():
        digest, name = line.split("  ", 1)
        if _file_digest(path / name) != digest:
            raise ValueError(f"{name} does not match its sha256")
    with _checkpointer() as checkpointer:
        args = orbax.args.Composite(manifest=orbax.args.JsonRestore())
        manifest = checkpointer.restore(path, args=args).manifest
        empty = {name: _empty(text) for name, text in manifest["leaves"].items()}
        kinds = dict.fromkeys(
            _by_position(empty), orbax.RestoreArgs(restore_type=np.ndarray)
        )
        item = orbax.args.PyTreeRestore(item=_by_position(empty), restore_args=kinds)
        args = orbax.args.Composite(leaves=item)
        stored = checkpointer.restore(path, args=args).leaves
    pairs = enumerate(empty.items())
    leaves = {name: stored.get(f"{index:05d}", leaf) for index, (name, leaf) in pairs}
    if _digest(manifest, leaves) != manifest["sha256"]:
        raise ValueError("its arrays do not match their sha256")
    if str(manifest["step"]) != path.name:
        raise ValueError(f"it is the checkpoint of step {manifest['step']}")
    return leaves, manifest["record"]


def _checkpointer(*, use_ocdbt: bool = False) -> Any:
    """Return what reads and writes in this process, and waits for no other."""
    index = jax.process_index()
    alone = orbax.options.MultiprocessingOptions(
        primary_host=index,
        active_processes={index},
        barrier_sync_key_prefix=f"dpjax-{index}",
    )
    arrays = orbax.PyTreeCheckpointHandler(
        use_ocdbt=use_ocdbt, multiprocessing_options=alone
    )
    return orbax.Checkpointer(
        orbax.CompositeCheckpointHandler(
            composite_options=orbax.CompositeOptions(multiprocessing_options=alone),
            leaves=arrays,
            manifest=orbax.JsonCheckpointHandler(multiprocessing_options=alone),
        ),
        multiprocessing_options=alone,
    )


@contextlib.contextmanager
def _without_needless_warning() -> Iterator[None]:
    """Drop what Orbax says of every checkpoint without OCDBT: that it has none."""
    logger = logging.getLogger("absl")

    def is_needed(record: logging.LogRecord) -> bool:
        return "Skipping merge of OCDBT" not in record.getMessage()

    logger.addFilter(is_needed)
    try:
        yield
    finally:
        logger.removeFilter(is_needed)


def _names_below(path: pathlib.Path) -> list[str]:
    """Return the files below `path`, as relative names."""
    found = (item for item in path.rglob("*") if item.is_file())
    return sorted(item.relative_to(path).as_posix() for item in found)


def _file_digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _close_and_flush(path: pathlib.Path) -> None:
    """Close everything below `path` to other users; wait until it is on the disk."""
    for item in [*path.rglob("*"), path]:
        item.chmod(_files.PRIVATE_FOLDER if item.is_dir() else _files.PRIVATE_FILE)
        _files.synchronize(item)


def _by_position(leaves: Leaves) -> Leaves:
    """Return the leaves under short names; Orbax cannot hold those of size zero."""
    pairs = enumerate(leaves.values())
    return {f"{index:05d}": leaf for index, leaf in pairs if leaf.size}


def _empty(text: str) -> np.ndarray:
    """Return an array of the dtype and shape that "float32[3,4]" describes."""
    dtype, shape = text.removesuffix("]").split("[")
    sizes = [int(size) for size in shape.split(",") if size]
    return np.broadcast_to(np.zeros((), jnp.dtype(dtype)), sizes)


def _digest(manifest: dict[str, Any], leaves: Leaves) -> str:
    signed = {key: manifest[key] for key in ("step", "record", "leaves")}
    digest = hashlib.sha256(json.dumps(signed, sort_keys=True).encode())
    fingerprint.feed(digest, leaves)
    return digest.hexdigest()
