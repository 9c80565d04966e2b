"""Small files that are either whole or not there, and JSON without NaN.

JSON has no NaN and no Infinity: they are written as the words "nan", "inf" and "-inf".
"""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
"""The modes of what its owner alone may read, whatever the umask."""


class WriteError(OSError):
    """A file could not be written: the disk is full, or the folder closed."""


def plain(value: Any) -> Any:
    """Return `value` with tuples as lists and non-finite floats as words."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def encode(value: Any, *, indent: int | None = None) -> bytes:
    """Return `value` as one UTF-8 JSON document that ends with a newline."""
    text = json.dumps(plain(value), indent=indent, allow_nan=False, default=_number)
    return (text + "\n").encode()


def json_copy(value: Any) -> Any:
    """Return `value` as it comes back from a JSON file."""
    return json.loads(encode(value))


def _number(value: Any) -> Any:
    """Return a NumPy or JAX scalar as the Python number that JSON knows."""
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"Expected a value that JSON can hold, got value={value!r}.")


def replace(path: pathlib.Path, content: bytes, *, time_ns: int | None = None) -> None:
    """Put `content` at `path` in one move: a reader sees the old file or the new.

    Args:
      path: where to.
      content: all of it.
      time_ns: what the file says of when it was changed, from the first sight of it;
        None is now.
    """
    unfinished = path.with_name(path.name + ".tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with _reported(path):
        with os.fdopen(os.open(unfinished, flags, PRIVATE_FILE), "wb") as file:
            os.fchmod(file.fileno(), PRIVATE_FILE)
            file.write(content)
            file.flush()
            if time_ns is not None:
                os.utime(file.fileno(), ns=(time_ns, time_ns))
            os.fsync(file.fileno())
        os.replace(unfinished, path)


def append(path: pathlib.Path, content: bytes) -> None:
    """Add `content` to the end of `path`."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with _reported(path), os.fdopen(os.open(path, flags, PRIVATE_FILE), "ab") as file:
        file.write(content)


def make_folder(path: pathlib.Path) -> None:
    """Make a folder for its owner alone, unless there is one, whatever the umask."""
    if not path.is_dir():
        path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        path.chmod(PRIVATE_FOLDER)


@contextlib.contextmanager
def _reported(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"Expected to write a file ({error.strerror}), got path={str(path)!r}."
        ) from error


def synchronize(path: pathlib.Path) -> None:
    """Wait until the content of `path` is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
