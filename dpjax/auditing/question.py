"""What is asked of an audit before it is run, and the answer that scores give."""

import dataclasses
import math
from typing import Any, Self

import numpy as np
from dp_accounting import DpEvent

from dpjax import _check, _versions, sampling
from dpjax.accounting import Epsilon
from dpjax.auditing import coin
from dpjax.auditing.audit_report import AuditReport
from dpjax.auditing.canaries import Canaries
from dpjax.auditing.from_scores import checked_scores
from dpjax.auditing.lower_bound import checked_delta
from dpjax.auditing.one_run import one_run_epsilon
from dpjax.mechanism import DPSGD

METHODS = ("fdp", "dp")

_PACKAGES = ("dpjax", "jax", "jaxlib", "optax", "numpy", "scipy", "dp-accounting")


@dataclasses.dataclass(frozen=True)
class Question:
    """How an epsilon is bounded from scores: all of it is fixed before they are seen.

    Attributes:
      mechanism: of the run under audit, canaries included.
      canaries: what is planted.
      delta: at which epsilon is bounded.
      significance: the probability, at most, that the bound is too high.
      method: "fdp" or "dp".
      guesses: how many coins are guessed.
      promised: the mechanism's epsilon at delta.
    """

    mechanism: DPSGD
    canaries: Canaries
    delta: float
    significance: float
    method: str
    guesses: int
    promised: Epsilon

    @classmethod
    def checked(
        cls,
        mechanism: DPSGD,
        canaries: Canaries,
        *,
        delta: float,
        significance: float,
        method: str | None,
        guesses: int | None,
    ) -> Self:
        """Return the question, its settings checked against each other.

        Raises:
          ValueError: a setting is out of range, "fdp" does not fit the sampler, or the
            mechanism has no noise multiplier yet.
          AuditError: even guesses that are all right would say nothing.
        """
        method = _checked_method(method, mechanism)
        level = _check.open_unit("significance", significance)
        delta = checked_delta(delta)
        if method == "fdp":
            _check.open_unit("delta", delta)
        count = canaries.count
        if guesses is None:
            guesses = coin.default_guesses(count)
        if _check.integer("guesses", guesses, minimum=1) > count:
            _check.fail(f"at most the {count} canaries", "guesses", guesses)
        if 0.5**guesses >= level:
            least = math.floor(-math.log2(level)) + 1
            raise coin.AuditError(
                f"Expected at least {least} guesses for significance={level:g}, got "
                f"{guesses} of {count} canaries."
            )
        promised = mechanism.epsilon(delta)
        return cls(mechanism, canaries, delta, level, method, guesses, promised)

    def answer(
        self, scores: np.ndarray, coins: np.ndarray, **context: Any
    ) -> AuditReport:
        """Return the report on scores of a run.

        Args:
          scores: (m,).
          coins: (m,) bool.
          **context: of the report: score, access, seeds and settings.

        Raises:
          ValueError: scores that are not finite.
        """
        checked_scores("scores", scores)
        made = coin.guess(scores, coins, self.guesses)
        bounds = self._bounds(made)
        level, method = self.significance, self.method
        return AuditReport(
            theoretical=self.promised,
            delta=self.delta,
            significance=level,
            method=method,
            bounds=bounds,
            scores=tuple(scores.tolist()),
            coins=tuple(coins.tolist()),
            num_guesses=made.guesses,
            canaries=self.canaries.describe(),
            mechanism=self.mechanism.describe(),
            versions=_versions.installed(_PACKAGES),
            **context,
        )

    def _bounds(self, made: coin.Guessed) -> dict[str, float]:
        """Return the bound by each method that can be had, the slow one if asked."""
        counts: dict[str, Any] = {
            "num_canaries": self.canaries.count,
            "num_guesses": made.guesses,
            "num_correct": made.correct,
            "delta": self.delta,
            "significance": self.significance,
        }
        bounds = {"dp": float(one_run_epsilon(**counts))}
        if self.delta > 0:
            bounds["fdp_gaussian"] = float(one_run_epsilon(**counts, method="fdp"))
        if self.method == "fdp":
            own = one_run_epsilon(**counts, method="fdp", mechanism=self._event)
            bounds["fdp"] = float(own)
        return bounds

    def _event(self, noise_multiplier: float) -> DpEvent:
        noised = dataclasses.replace(self.mechanism, noise_multiplier=noise_multiplier)
        return noised.event()


def _checked_method(method: str | None, mechanism: DPSGD) -> str:
    sampler = mechanism.sampler
    poisson = sampler is None or isinstance(sampler, sampling.Poisson)
    if method is None:
        return "fdp" if poisson else "dp"
    if _check.choice("method", method, METHODS) == "fdp" and not poisson:
        _check.fail("Poisson samples, or method='dp'", "sampler", sampler)
    return method
