"""The run folder: what a run is, kept so that it can be gone on with, and nothing else.

    config.json    what is public of the run; compared when the run is resumed
    private.json   the key of the noise and the keyed hash of the data: whoever has the
                   key can take the noise away again
    metrics.jsonl  one line a logged step
    checkpoints/   see `checkpoints`
    ledger.json    what was spent, written at the end: `PrivacyLedger.load` reads it
    summary.json   written last

The folder is made for its owner alone (mode 0700), and so are the files.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _files
from dpjax.noise import keys
from dpjax.types import KeyLike

try:
    import fcntl
except ImportError:  # not a POSIX system: no lock
    fcntl = None  # type: ignore[assignment]

CONFIG = "config.json"
PRIVATE = "private.json"
METRICS = "metrics.jsonl"
LEDGER = "ledger.json"
SUMMARY = "summary.json"
CHECKPOINTS = "checkpoints"

_LOCK = ".lock"
_OF_VERSIONS = ("loss", "optimizer")
_MAY_CHANGE = ("devices", "versions")
_TRACED_BY = ("dpjax", "jax", "jaxlib", "optax", "flax")
"""The packages by whose versions the hashes of loss and optimizer may change."""


class RunFolderError(ValueError):
    """The run folder cannot be used as asked."""


class ResumeError(RunFolderError):
    """The run in the folder is not the run that was asked for."""


def check_free(path: pathlib.Path) -> None:
    """Refuse to begin a run where there is one.

    Raises:
      RunFolderError: the folder holds a run already.
    """
    if (path / CONFIG).exists() or (path / CHECKPOINTS).exists():
        raise RunFolderError(
            "Expected a folder without a run (or resume, to go on with it), got "
            f"run_dir={str(path)!r}."
        )


def run_key(
    run_dir: str | pathlib.Path | None, key: KeyLike | None, *, resume: bool
) -> jax.Array:
    """Return the key words of a run: the saved ones, those given, or fresh ones.

    Args:
      run_dir: the run folder, or None.
      key: what the user gave; None draws from the operating system, or takes the saved
        key when a run is resumed.
      resume: whether a run is resumed.

    Raises:
      ResumeError: the run was begun with another key.
      RunFolderError: there is no run to resume, or one that would be written over.
    """
    if not resume:
        if run_dir is not None:
            check_free(pathlib.Path(run_dir))
        return keys.key_data(key)
    if run_dir is None:
        raise RunFolderError("Expected a run folder to resume from, got run_dir=None.")
    saved = _saved_key(pathlib.Path(run_dir))
    if key is not None and not np.array_equal(keys.key_data(key), saved):
        raise ResumeError("Expected the key that the run was begun with, got another.")
    return saved


def saved_settings(
    run_dir: str | pathlib.Path, part: str = "settings"
) -> dict[str, Any]:
    """Return the settings that a run was begun with, or another part of its config.

    Args:
      run_dir: the run folder.
      part: a part of config.json that is an object.

    Raises:
      RunFolderError: it has no config.json, or one that is damaged or without the part.
    """
    path = pathlib.Path(run_dir) / CONFIG
    found = _read(path).get(part)
    if not isinstance(found, dict):
        raise RunFolderError(
            f"Expected a run with {part}, got {path.name}={str(path)!r}."
        )
    return found


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Make the folder if need be, and keep other processes from training in it.

    Raises:
      RunFolderError: it cannot be made or written, or another process trains in it.
    """
    try:
        _files.make_folder(path)
        lock = os.open(path / _LOCK, os.O_WRONLY | os.O_CREAT, _files.PRIVATE_FILE)
        os.fchmod(lock, _files.PRIVATE_FILE)
    except OSError as error:
        raise RunFolderError(
            f"Expected a folder that can be written ({error.strerror}), got "
            f"run_dir={str(path)!r}."
        ) from error
    with os.fdopen(lock, "w"):
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunFolderError(
                "Expected a folder in which no other process trains, got "
                f"run_dir={str(path)!r}."
            ) from error
        yield


def begin(path: pathlib.Path, config: dict[str, Any], private: dict[str, Any]) -> None:
    """Write the identity of a new run; config.json comes last and makes it a run.

    Raises:
      RunFolderError: the folder holds a run already.
    """
    check_free(path)
    _files.replace(path / PRIVATE, _files.encode(private))
    _files.replace(path / METRICS, b"")
    _files.replace(path / CONFIG, _files.encode(config, indent=2))


class Saved(NamedTuple):
    """What a run that is resumed was.

    Attributes:
      config: the object of its config.json.
      private: the object of its private.json.
      notes: one line for each version, and whatever of the devices, that changed:
        numbers may differ in rounding.
        And whether loss and optimizer could not be compared for that.
    """

    config: dict[str, Any]
    private: dict[str, Any]
    notes: list[str]


def check_same(path: pathlib.Path, config: dict[str, Any], data: str) -> Saved:
    """Compare the run in the folder with the one that was asked for.

    Args:
      path: the run folder.
      config: the public identity that was asked for.
      data: the keyed hash of the data.

    Raises:
      ResumeError: they differ; the message says in what.
    """
    saved, private = _read(path / CONFIG), _read(path / PRIVATE)
    differences, changed = compare(saved, config)
    notes = list(changed)
    if _rehashed(saved, config):
        notes.append("so loss and optimizer were not compared")
    if private.get("data") != data:
        differences.append("the data are not the same")
    if differences:
        raise ResumeError(
            f"Expected the run of run_dir={str(path)!r}, got another: "
            + "; ".join(differences)
        )
    return Saved(saved, private, notes)


def compare(
    saved: dict[str, Any], config: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """Return what differs between two configs, and apart from it what may.

    Args:
      saved: the object of a config.json.
      config: that of the run at hand.
    """
    saved, now = dict(saved), dict(_files.json_copy(config))
    rehashed = _rehashed(saved, now)
    changed = [
        line
        for name in _MAY_CHANGE
        for line in _differences(saved.pop(name, {}), now.pop(name, {}), name)
    ]
    if rehashed:
        for each in (saved, now):
            model = each.get("model")
            if isinstance(model, dict):
                each["model"] = model | dict.fromkeys(_OF_VERSIONS)
    return _differences(saved, now), changed


def changed_versions(saved: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """Return a line for each version that differs between two configs."""
    now = _files.json_copy(config)
    return _differences(saved.get("versions"), now.get("versions"), "versions")


def _rehashed(saved: dict[str, Any], now: dict[str, Any]) -> bool:
    """Tell whether the same loss and optimizer may have another hash now."""
    versions = saved.get("versions"), now.get("versions")
    found, known = (each if isinstance(each, dict) else {} for each in versions)
    return any(found.get(name) != known.get(name) for name in _TRACED_BY)


def _differences(saved: Any, now: Any, name: str = "") -> list[str]:
    """Name each leaf of two JSON objects that differs."""
    if isinstance(saved, dict) and isinstance(now, dict):
        return [
            line
            for key in dict.fromkeys([*saved, *now])
            for line in _differences(
                saved.get(key), now.get(key), f"{name}.{key}" if name else key
            )
        ]
    return [] if saved == now else [f"{name} was {saved!r} and is now {now!r}"]


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(
            f"Expected a readable JSON file ({error}), got {path.name}={str(path)!r}."
        ) from error
    if not isinstance(value, dict):
        raise RunFolderError(f"Expected a JSON object, got {path.name}={value!r}.")
    return value


def _saved_key(path: pathlib.Path) -> jax.Array:
    if not (path / CONFIG).exists():
        raise RunFolderError(
            f"Expected a folder with a run to resume, got run_dir={str(path)!r}."
        )
    words = _read(path / PRIVATE).get("key")
    try:
        return keys.key_data(jnp.asarray(np.asarray(words, np.uint32)))
    except (TypeError, ValueError, OverflowError) as error:
        raise RunFolderError(
            f"Expected two key words in {PRIVATE}, got run_dir={str(path)!r}."
        ) from error
