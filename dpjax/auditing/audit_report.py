"""What an audit found, with everything that is needed to repeat it."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from dpjax import _check, _files
from dpjax.accounting import Epsilon
from dpjax.auditing.coin import AuditError, checked_coins, guess
from dpjax.auditing.from_scores import checked_scores
from dpjax.auditing.lower_bound import LowerBound

REPORT = "audit.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditReport:
    """The verdict of an audit, and how it was come by.

    Attributes:
      theoretical: the epsilon that the mechanism under audit promises at `delta`.
      delta: of both.
      significance: the probability, at most, that the bound is above the truth.
      method: "fdp" or "dp".
      score: what the canaries were scored by.
      bounds: the bound by each method, for comparison: each holds by itself, and the
        best of them does not.
      scores: (m,) of the canaries, larger for what seems to be in.
      coins: (m,) whether each was in.
      num_guesses: fixed before the scores were seen.
      canaries: their settings.
      mechanism: every public constant of the run under audit, canaries included.
      access: "white-box" (every update) or "black-box" (a trainer's final parameters).
      seeds: "coins" and "key" (two words), from which the run can be repeated. Whoever
        knows the key can take the noise away.
      settings: what the caller wants kept of how the run is made.
      versions: of the packages.
    """

    theoretical: Epsilon
    delta: float
    significance: float
    method: str
    score: str
    bounds: dict[str, float]
    scores: tuple[float, ...]
    coins: tuple[bool, ...]
    num_guesses: int
    canaries: dict[str, Any]
    mechanism: dict[str, Any]
    access: str
    seeds: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]

    def __post_init__(self) -> None:
        """Check what a damaged file may have wrong."""
        scores = checked_scores("scores", self.scores)
        if len(self.coins) != len(scores):
            _check.fail(f"a coin for each of {len(scores)} scores", "coins", self.coins)
        checked_coins(np.asarray(self.coins))
        most = _check.integer("num_guesses", self.num_guesses, minimum=1)
        if most > len(scores):
            _check.fail(f"at most {len(scores)} guesses", "num_guesses", most)
        if self.method not in self.bounds:
            _check.fail(f"a bound by method={self.method!r}", "bounds", self.bounds)

    @property
    def lower_bound(self) -> LowerBound:
        """An epsilon that the training has at least, but for a chance of significance.

        It is the bound by `method`, which was fixed beforehand.
        """
        return LowerBound(
            self.bounds[self.method],
            delta=self.delta,
            significance=self.significance,
            method=self.method,
        )

    @property
    def num_correct(self) -> int:
        """How many guesses were right."""
        scores, coins = np.asarray(self.scores), np.asarray(self.coins)
        return guess(scores, coins, self.num_guesses).correct

    @property
    def violated(self) -> bool:
        """Whether the promise is refuted, at the stated confidence."""
        return bool(self.lower_bound > self.theoretical)

    @property
    def verdict(self) -> str:
        """What the audit says, in a sentence or two."""
        found, promised = float(self.lower_bound), float(self.theoretical)
        confidence = f"{100 * (1 - self.significance):g} % confidence"
        if self.violated:
            return (
                f"Violation: the training is not ({promised:.3f}, {self.delta:g})-"
                f"differentially private, with {confidence}: its epsilon is at least "
                f"{found:.3f}."
            )
        bound = f"the epsilon is at least {found:.3f}" if found else "epsilon may be 0"
        return (
            f"No violation found: with {confidence} {bound}, and {promised:.3f} is "
            f"promised at delta {self.delta:g}. This is no proof that it holds."
        )

    @property
    def in_scores(self) -> np.ndarray:
        """The scores of canaries that were in."""
        return np.asarray(self.scores)[np.asarray(self.coins)]

    @property
    def out_scores(self) -> np.ndarray:
        """The scores of canaries that were left out."""
        return np.asarray(self.scores)[~np.asarray(self.coins)]

    @property
    def roc(self) -> tuple[np.ndarray, np.ndarray]:
        """False and true positive rates of all thresholds, from (0, 0) to (1, 1)."""
        thresholds = np.unique(self.scores)
        rates = [
            np.searchsorted(np.sort(scores), thresholds) / len(scores)
            for scores in (self.out_scores, self.in_scores)
        ]
        false, true = (np.append(1 - rate[::-1], 1.0) for rate in rates)
        return np.append(0.0, false), np.append(0.0, true)

    @property
    def is_of_private_examples(self) -> bool:
        """Whether canaries are made of the private data: their scores are private."""
        kind = self.canaries.get("kind")
        return self.canaries.get("family") == "example" and kind != "random"

    def ranked(self) -> "AuditReport":
        """Return the report with ranks for scores, in the order of the ranks.

        Guesses, rates and bounds are the same. What one example scored, and which was
        in, is no longer there.
        """
        order = np.argsort(self.scores, kind="stable")
        _, ranks = np.unique(np.asarray(self.scores)[order], return_inverse=True)
        return dataclasses.replace(
            self,
            scores=tuple(ranks.astype(float).tolist()),
            coins=tuple(np.asarray(self.coins)[order].tolist()),
        )

    def to_json(self, *, per_example_scores: bool = False) -> str:
        """Return the report as JSON; `from_json` gives an equal one.

        Args:
          per_example_scores: whether the score of each canary is told where canaries
            are made of private examples; else it is the report `ranked`. Scores of
            canaries that are made up are always told.
        """
        if self.is_of_private_examples and not per_example_scores:
            return self.ranked().to_json(per_example_scores=True)
        value = {field.name: getattr(self, field.name) for field in _FIELDS}
        value["theoretical"] = {
            "value": float(self.theoretical),
            "error": self.theoretical.error,
            "method": self.theoretical.method,
        }
        shown: dict[str, Any] = {
            "lower_bound": float(self.lower_bound),
            "num_correct": self.num_correct,
        }
        shown |= {"violated": self.violated, "verdict": self.verdict}
        return _files.encode({"version": 1, **value, **shown}, indent=1).decode()

    @classmethod
    def from_json(cls, text: str) -> "AuditReport":
        """Return the report that `to_json` wrote.

        Raises:
          AuditError: something is missing, such as the seed of the coins.
        """
        try:
            value = json.loads(text)
            if "coins" not in value["seeds"]:
                raise AuditError("Expected the seed of the coins in 'seeds', got none.")
            kept = {field.name: value[field.name] for field in _FIELDS}
            for name in ("scores", "coins"):
                kept[name] = tuple(kept[name])
            kept["bounds"] = {name: float(n) for name, n in kept["bounds"].items()}
            kept["theoretical"] = _promised(kept["theoretical"])
            if not all(isinstance(coin, bool) for coin in kept["coins"]):
                raise AuditError("Expected coins that are true or false.")
            report = cls(**kept)
            report.to_json()  # what follows from the rest can be derived
            return report
        except AuditError:
            raise
        except _DAMAGE as error:
            raise AuditError(f"Expected the JSON of an audit ({error!r}).") from error

    def save(
        self, folder: str | pathlib.Path, *, per_example_scores: bool = False
    ) -> pathlib.Path:
        """Write audit.json into a folder, in one move; return its path.

        Args:
          folder: made, for its owner alone, unless it is there.
          per_example_scores: see `to_json`.
        """
        path = pathlib.Path(folder)
        _files.make_folder(path)
        text = self.to_json(per_example_scores=per_example_scores)
        _files.replace(path / REPORT, text.encode())
        return path / REPORT

    @classmethod
    def load(cls, folder: str | pathlib.Path) -> "AuditReport":
        """Return the report that is in a folder.

        Raises:
          AuditError: there is none, or it is damaged or lacks the seed of the coins.
        """
        path = pathlib.Path(folder) / REPORT
        try:
            text = path.read_text()
        except OSError as error:
            raise AuditError(
                f"Expected an audit ({error.strerror}), got path={str(path)!r}."
            ) from error
        return cls.from_json(text)


_DAMAGE = (
    *(LookupError, TypeError, ValueError, AttributeError),
    *(OverflowError, RecursionError),
)
"""What Python says of a file that is no audit."""

_FIELDS = dataclasses.fields(AuditReport)


def _promised(value: dict[str, Any]) -> Epsilon:
    """Return the theoretical epsilon with what it carries."""
    return Epsilon(
        float(value["value"]), error=float(value["error"]), method=value["method"]
    )
