"""What the audit of a known mechanism is given: canaries, scores, and right guesses."""

import dataclasses
from collections.abc import Callable

import dp_accounting
import numpy as np
from scipy import special, stats

import dpjax

SAMPLE = 200_000
"""Canaries of each kind from which the guesses to expect are counted."""


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """Poisson-sampled Gaussian steps, of which every canary is seen by itself.

    Attributes:
        rate: Probability that a canary that is in is in the batch of a step.
        steps: Number of steps.
        noise: Noise multiplier.
    """

    rate: float
    steps: int
    noise: float

    def event(self, noise: float) -> dp_accounting.DpEvent:
        """Return its event with another noise multiplier."""
        step = dp_accounting.GaussianDpEvent(noise)
        if self.rate < 1:
            step = dp_accounting.PoissonSampledDpEvent(self.rate, step)
        return dp_accounting.SelfComposedDpEvent(step, self.steps)

    def epsilon(self, delta: float) -> float:
        """Return what the mechanism keeps."""
        return float(dpjax.accounting.event_epsilon(self.event(self.noise), delta))

    def scores(
        self, count: int, inside: bool, random: np.random.Generator
    ) -> np.ndarray:
        """Return log likelihood ratios of `count` canaries, all in or all out."""
        total = np.zeros(count)
        for _ in range(self.steps):
            seen = self.noise * random.normal(size=count)
            if inside:
                seen += random.random(count) < self.rate
            ratio = (2 * seen - 1) / (2 * self.noise**2)
            total += np.logaddexp(
                np.log1p(-self.rate) if self.rate < 1 else -np.inf,
                np.log(self.rate) + ratio,
            )
        return total


def normal_scores(
    mu: float, count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores N(mu, 1) of members and N(0, 1) of others, `count` each."""
    return mu + random.normal(size=count), random.normal(size=count)


def normal_guesses(
    mu: float, canaries: int, share: float, two_sided: bool
) -> tuple[int, int]:
    """Return how many guesses, and how many right ones, are to be expected.

    Args:
        mu: Distance of the scores of members and others, both of variance 1.
        canaries: Half of them in.
        share: Of the canaries about which a guess is made.
        two_sided: Whether the lowest scores are guessed to be out, as many as the
            highest are guessed to be in; else only those are guessed.
    """
    top = share / 2 if two_sided else share

    def excess(threshold: float) -> float:
        return (stats.norm.sf(threshold - mu) + stats.norm.sf(threshold)) / 2 - top

    low, high = -40.0, mu + 40.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    right = special.ndtr(mu - low) / 2 * (2 if two_sided else 1)
    return round(canaries * share), int(canaries * right)


def expected_guesses(
    scores: tuple[np.ndarray, np.ndarray], canaries: int, share: float
) -> tuple[int, int]:
    """Return guesses of both kinds, and the right ones, from a large sample of scores.

    Args:
        scores: Of members, and as many of others.
        canaries: Half of them in.
        share: Of the canaries about which a guess is made, half of them in.
    """
    values = np.concatenate(scores)
    inside = np.arange(values.size) < scores[0].size
    order = np.argsort(values, kind="stable")
    each = int(values.size * share / 2)
    right = inside[order[-each:]].sum() + (~inside[order[:each]]).sum()
    return round(canaries * share), int(right * canaries / values.size)


def best(
    bound: Callable[[int, int], float], guesses: Callable[[float], tuple[int, int]]
) -> float:
    """Return the largest bound over shares of canaries to guess about."""
    shares = np.geomspace(0.01, 1, 25)
    return max(bound(*guesses(float(share))) for share in shares)
