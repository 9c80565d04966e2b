"""The data sets of the examples: real ones, found without asking the user for files.

Each is read from the first of its places that has it: the user's folder (and then no
other), what is installed or cached on this machine, the official address with a
checksum. `Dataset.source` says which. Scales and encodings are public constants, never
computed from the examples, so they cost no privacy.
"""

import dataclasses
import hashlib
import os
import pathlib
from typing import Protocol

import data_adult
import data_images
import numpy as np
from data_files import Arrays, DataError, DataUnavailable, Place


class _Family(Protocol):
    """How one data set is read; `data_images.MNIST_5K` is an instance."""

    @property
    def num_classes(self) -> int:
        """Number of labels that may occur."""

    def from_folder(self, folder: pathlib.Path) -> Arrays:
        """Read the arrays from a folder of the user's."""

    def places(self) -> list[Place]:
        """List the places to try when the user names none, best first."""


SETS: dict[str, _Family] = {
    "mnist_5k": data_images.Mnist5k(),
    "fashion_mnist": data_images.FashionMnist(),
    "adult": data_adult.Adult(),
}
"""The names that `load` takes."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory; its arrays are read-only.

    Attributes:
        name: The name that `load` was asked for.
        source: Which place the files were read from.
        train_x: Features, float32, `(examples, ...)`.
        train_y: Labels, int32, `(examples,)`, in `[0, num_classes)`.
        test_x: Like `train_x`; treated as public.
        test_y: Like `train_y`; treated as public.
        num_classes: Number of labels that may occur, a public constant.
        fingerprint: sha256 of the four arrays with their shapes and dtypes, hex.
    """

    name: str
    source: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    num_classes: int
    fingerprint: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Freeze the arrays and take their fingerprint."""
        digest = hashlib.sha256()
        for array in (self.train_x, self.train_y, self.test_x, self.test_y):
            array.setflags(write=False)
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        object.__setattr__(self, "fingerprint", digest.hexdigest())


def load(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load a data set by name.

    Args:
        name: "mnist_5k" (4,000 + 1,000 digits: within each class the first 400 rows
            train, the last 100 test; images `(examples, 28, 28, 1)` in [0, 1]),
            "fashion_mnist" (60,000 + 10,000 images likewise) or "adult" (32,561 +
            16,281 rows of 108 features, see `data_adult`).
        data_dir: Folder to read from; then nothing else is tried. It holds
            `mnist_5k.csv`, or the four idx files under their official names, or
            `adult.data` and `adult.test`, each plain or with `.gz`.

    Returns:
        The data set. Its split and order are fixed and draw no random number.

    Raises:
        DataError: If the name is unknown, or a file is torn or not what it should be.
        DataUnavailable: If no place has the files; the message lists all of them. It
            is a `DataError` and an `OSError`.
    """
    if name not in SETS:
        known = ", ".join(repr(known) for known in SETS)
        raise DataError(f"Expected one of {known}, got name={name!r}.")
    family = SETS[name]
    source, arrays = (
        _first(name, family.places())
        if data_dir is None
        else (f"folder {data_dir}", family.from_folder(_folder(name, data_dir)))
    )
    return Dataset(name, source, *arrays, family.num_classes)


def _folder(name: str, data_dir: str | os.PathLike[str]) -> pathlib.Path:
    folder = pathlib.Path(data_dir).expanduser()
    if not folder.is_dir():
        raise DataUnavailable(
            f"Expected a folder with {name}, got data_dir={str(data_dir)!r}."
        )
    return folder


def _first(name: str, places: list[Place]) -> tuple[str, Arrays]:
    reasons = []
    for source, read in places:
        try:
            return source, read()
        except DataUnavailable as error:
            reasons.append(f"{source}: {error}")
    raise DataUnavailable(
        f"Expected {name} in one of {len(places)} places, got none. "
        + " ".join(reasons)
    )
