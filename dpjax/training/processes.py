"""What several processes of one run must agree on, by JAX's own collectives.

Every process runs the same program on the same arguments; the first alone has a run
folder. With one process, nothing here does anything.
"""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from dpjax.noise import keys
from dpjax.training import fingerprint, folder
from dpjax.types import ArrayTree, KeyLike


class ProcessError(RuntimeError):
    """Another process cannot go on, or was started with something else."""


def is_first() -> bool:
    """Tell whether this is the process that writes."""
    return jax.process_index() == 0


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Run a block in every process; where it fails in one, it fails in all.

    The block itself must not exchange anything where it may fail.

    Raises:
      ProcessError: it failed in another process; there, what went wrong is raised.
    """
    if jax.process_count() == 1:
        yield
        return
    try:
        yield
    except BaseException:
        _failures(True)
        raise
    failed = _failures(False)
    if failed:
        raise ProcessError(f"Expected all processes to go on, got failed={failed}.")


def _failures(failed: bool) -> list[int]:
    flags = multihost_utils.process_allgather(np.array(failed))
    return np.flatnonzero(flags).tolist()


def from_first(make: Callable[[], Any]) -> Any:
    """Return, in every process, what `make` gives in the first.

    Args:
      make: returns a JSON value.

    Raises:
      ProcessError: it failed there.
    """
    if jax.process_count() == 1:
        return make()
    text = b""
    with together():
        if is_first():
            text = json.dumps(make()).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    content = np.frombuffer(text.ljust(size, b" "), np.uint8)
    return json.loads(multihost_utils.broadcast_one_to_all(content).tobytes())


def run_key(
    run_dir: str | pathlib.Path | None, key: KeyLike | None, *, resume: bool
) -> jax.Array:
    """Return the key words of a run: the saved ones, those given, or fresh ones.

    The first process looks at the run folder. Every process has to call this.

    Args:
      run_dir: the run folder, or None.
      key: what the user gave; None draws from the operating system, once for all
        processes, or takes the saved key when a run is resumed.
      resume: whether a run is resumed.

    Raises:
      ResumeError: the run was begun with another key.
      RunFolderError: there is no run to resume, or one that would be written over.
      ProcessError: one of these in the first process, when this is another.
    """
    if jax.process_count() == 1:
        return folder.run_key(run_dir, key, resume=resume)
    if resume:
        words = from_first(
            lambda: np.asarray(folder.run_key(run_dir, key, resume=True)).tolist()
        )
        return jnp.asarray(np.array(words, np.uint32))
    with together():
        if is_first() and run_dir is not None:
            folder.check_free(pathlib.Path(run_dir))
    return keys.key_data(key)


def same_tree(tree: ArrayTree) -> ArrayTree:
    """Return, in every process, the arrays of the first, bit for bit."""
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    host = fingerprint.host_leaves(leaves).values()
    sent = [_sent(leaf) for leaf in host]
    new = [_like(old, leaf) for old, leaf in zip(leaves, sent, strict=True)]
    return jax.tree.unflatten(structure, new)


def _sent(leaf: np.ndarray) -> np.ndarray:
    """Return an array of the first process. As bytes: a sum with 0 changes a -0."""
    if not leaf.size:
        return leaf
    content = np.frombuffer(leaf.tobytes(), np.uint8)
    received = multihost_utils.broadcast_one_to_all(content)
    return np.frombuffer(received.tobytes(), leaf.dtype).reshape(leaf.shape)


def _like(old: Any, new: Any) -> Any:
    is_key = jnp.issubdtype(old.dtype, jax.dtypes.prng_key)
    return (
        jax.random.wrap_key_data(new, impl=jax.random.key_impl(old)) if is_key else new
    )


def check_same(**values: Any) -> None:
    """Refuse a run whose processes were not given the same.

    Args:
      **values: JSON values by what they are.

    Raises:
      ProcessError: a value differs; the message names it.
    """
    if jax.process_count() == 1:
        return
    digests = [
        hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
        for value in values.values()
    ]
    mine = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)
    found = multihost_utils.process_allgather(mine)
    same = (found == found[:1]).all(axis=(0, 2))
    different = [name for name, equal in zip(values, same, strict=True) if not equal]
    if different:
        raise ProcessError(
            f"Expected the same in every process, got other {' and '.join(different)}."
        )


class Signals:
    """A signal that one process got, as all processes learn of it at one step."""

    def __init__(self) -> None:
        """Forget what was asked for before."""
        self._asked: jax.Array | None = None

    def seen(self, signum: int | None) -> int | None:
        """Return the signal after which the step at hand is the last, or None.

        With several processes it is one that any of them had a step ago: the exchange
        then goes on beside the step, and nobody waits for it.

        Args:
          signum: what has arrived here, or None.
        """
        if jax.process_count() == 1:
            return signum
        devices = jax.devices()
        mesh = jax.make_mesh((len(devices),), ("all",), devices=devices)
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("all"))
        mine = np.full(len(devices), signum or 0, np.int32)
        flags = jax.make_array_from_callback(mine.shape, sharding, mine.__getitem__)
        before, self._asked = self._asked, jax.jit(jnp.max)(flags)
        return None if before is None else int(before) or None
