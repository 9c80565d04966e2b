"""Delta at an epsilon, and epsilon at a delta, from samples of the privacy loss."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize

from dpjax import _check
from dpjax.accounting.epsilon import AccountingError
from dpjax.accounting.monte_carlo.confidence import least_upper, upper_mean
from dpjax.accounting.monte_carlo.pairs import Pair

_BLOCK = 2**15
_ROUNDS = 3
_CAUTION = 20
"""A candidate is taken where the samples before would fail so much more rarely."""


@dataclasses.dataclass(frozen=True)
class MonteCarloDelta:
    """A delta by Monte Carlo.

    Attributes:
      estimate: of delta, without bias in either direction of the pair; the larger one.
      upper: what delta is at most, with probability `confidence` over the samples.
      epsilon: in nats, of which it is the delta.
      confidence: in (0, 1).
      samples: number of samples in each direction.
    """

    estimate: float
    upper: float
    epsilon: float
    confidence: float
    samples: int
    method = "monte_carlo"

    def __str__(self) -> str:
        """Say all of it."""
        return (
            f"delta <= {self.upper:.4g} at epsilon = {self.epsilon:.4g}, with "
            f"confidence {self.confidence:g} over {self.samples} samples (estimate "
            f"{self.estimate:.4g}, Monte Carlo)"
        )


@dataclasses.dataclass(frozen=True)
class MonteCarloEpsilon:
    """An epsilon by Monte Carlo.

    Attributes:
      estimate: where the estimated delta is the one asked for.
      upper: an epsilon that is enough, with probability `confidence` over the samples.
      delta: of which it is the epsilon.
      confidence: in (0, 1).
      samples: number of samples in each direction, of each of up to four sets.
    """

    estimate: float
    upper: float
    delta: float
    confidence: float
    samples: int
    method = "monte_carlo"

    def __str__(self) -> str:
        """Say all of it."""
        return (
            f"epsilon <= {self.upper:.4g} at delta = {self.delta:.4g}, with "
            f"confidence {self.confidence:g} over {self.samples} samples (estimate "
            f"{self.estimate:.4g}, Monte Carlo)"
        )


def delta(
    pair: Pair, epsilon: float, *, samples: int, confidence: float, seed: int
) -> MonteCarloDelta:
    """Estimate the delta of a pair of output laws at an epsilon.

    With L the privacy loss of an output, delta is E (1 - e^(epsilon - L))_+, a mean of
    numbers between 0 and 1, for outputs of a run with the example; and the same with
    the roles of the two laws swapped. The larger of both counts.

    Args:
      pair: what is released, such as `Repeated(Allocated(1.0, 60), 10)`.
      epsilon: in nats, at least 0.
      samples: number of outputs drawn in each direction, at least 2. A bound near a
        delta asks for more than log(4 / (1 - confidence)) / delta of them, by far.
      confidence: in (0, 1), of the bound.
      seed: of the random numbers; another seed gives another estimate. Choosing among
        several forfeits the confidence.

    Returns:
      The estimate and its upper bound.

    Raises:
      TypeError, ValueError: a setting is out of range.

    Guarantee: with probability at least `confidence` over the random numbers drawn
    here, `upper` is at least the delta of the pair, under add-or-remove or where the
    other example contributes nothing. It says nothing of other relations.

    Example:
      >>> from dpjax.accounting import monte_carlo
      >>> epoch = monte_carlo.Allocated(noise_multiplier=1.0, num_steps=10)
      >>> found = monte_carlo.delta(
      ...     epoch, 0.5, samples=100_000, confidence=0.99, seed=1
      ... )
      >>> 0.02 < found.estimate < found.upper < 0.04
      True

    References:
      Chua et al. (2025), Balls-and-Bins sampling for DP-SGD, section 3; Wang et al.
      (2023), A randomized approach to tight privacy accounting.
    """
    least = _check.non_negative("epsilon", epsilon)
    source = _source(samples, confidence, seed)
    both = _losses(pair, source, samples)
    estimate = max(float(_paid(losses, least).mean()) for losses in both)
    upper = _upper(both, least, 1 - confidence)
    return MonteCarloDelta(estimate, upper, least, float(confidence), int(samples))


def epsilon(
    pair: Pair, delta: float, *, samples: int, confidence: float, seed: int
) -> MonteCarloEpsilon:
    """Estimate the epsilon of a pair of output laws at a delta.

    A first set of samples gives the estimate, and a candidate for the bound; a second,
    independent one must confirm that delta is small enough there. Where it does not, a
    third one is asked about a larger candidate, and at last a fourth.

    Args:
      pair: as in `delta`.
      delta: in (0, 1).
      samples: as in `delta`, of each set.
      confidence: as in `delta`.
      seed: as in `delta`.

    Raises:
      TypeError, ValueError: a setting is out of range.
      AccountingError: so few samples cannot confirm such a delta.

    Guarantee: with probability at least `confidence` over the random numbers drawn
    here, the pair is (`upper`, `delta`)-differentially private, as in `delta` above.
    """
    target = _check.open_unit("delta", delta)
    source = _source(samples, confidence, seed)
    failure = (1 - confidence) / _ROUNDS
    least = least_upper(samples, failure / 2 / _CAUTION)
    if least > target / 2:
        needed = math.ceil(samples * least / target * 2)
        _check.fail(f"at least {needed} samples", "samples", samples, AccountingError)
    both = _losses(pair, source, samples)
    estimate = _solve(
        lambda e: max(float(_paid(x, e).mean()) for x in both), both, target
    )
    for _ in range(_ROUNDS):
        candidate = _candidate(both, failure / _CAUTION, target)
        both = _losses(pair, source, samples)
        if _upper(both, candidate, failure) <= target:
            return MonteCarloEpsilon(
                estimate, candidate, target, float(confidence), int(samples)
            )
    raise AccountingError(
        "Expected sets of samples of which one confirms what those before it suggest, "
        f"got samples={samples!r}: take more."
    )


def _source(samples: int, confidence: float, seed: int) -> np.random.Generator:
    """Return random numbers, once the settings are checked."""
    _check.integer("samples", samples, minimum=2)
    _check.open_unit("confidence", confidence)
    return np.random.default_rng(_check.integer("seed", seed, minimum=0))


def _losses(pair: Pair, source: np.random.Generator, samples: int) -> list[np.ndarray]:
    """Return privacy losses when one is removed and added: (samples,) each."""
    both = []
    for sign in (1.0, -1.0):
        blocks = [
            sign * pair.log_ratios(source, min(_BLOCK, samples - start), sign > 0)
            for start in range(0, samples, _BLOCK)
        ]
        both.append(np.concatenate(blocks))
    return both


def _paid(losses: np.ndarray, epsilon: float) -> np.ndarray:
    """Return what each loss adds to delta: (samples,), in [0, 1]."""
    return -np.expm1(np.minimum(epsilon - losses, 0.0))


def _upper(both: Sequence[np.ndarray], epsilon: float, failure: float) -> float:
    """Return an upper bound on the delta of both directions."""
    return max(upper_mean(_paid(losses, epsilon), failure / 2) for losses in both)


def _candidate(both: Sequence[np.ndarray], failure: float, target: float) -> float:
    """Return the least epsilon at which a bound on delta is at most `target`."""
    return _solve(lambda e: _upper(both, e, failure), both, target)


def _solve(
    delta_at: Callable[[float], float], both: Sequence[np.ndarray], target: float
) -> float:
    """Return an epsilon >= 0 from which on `delta_at`, which falls, is `target`."""
    high = max(0.0, *(float(losses.max()) for losses in both))
    if delta_at(0.0) <= target:
        return 0.0
    root = optimize.brentq(lambda e: delta_at(e) - target, 0.0, high, xtol=1e-9)
    return float(root) + 1e-9
