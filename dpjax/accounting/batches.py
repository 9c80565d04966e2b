r"""Batches that are no Poisson samples: which laws dominate them.

An example x, of a gradient clipped to norm 1, is in one of two neighbouring data sets.
Its batch has a part that does not depend on x; given that part, the noisy sum has, up
to a shift that both share, and with g the probability that x is drawn, the laws

    x against nobody    P = (1 - g) N(a) + g N(v),   Q = N(a)
    x against y         P = (1 - g) N(a) + g N(v),   Q = (1 - g) N(a) + g N(w)

where a is the gradient of whoever has x's place when x is not drawn, v and w are those
of x and y, and N(m) is normal with mean m and standard deviation s. All three have
norms up to 1, and are the adversary's.

1. x against nobody. H_b(P, Q) grows with |v - a| <= 2: it is largest for the pair
   (1 - g) N(0) + g N(2) and N(0), that of Poisson sampling at s / 2, in both
   directions. Here g is B / N, with N the larger of the two sizes.
2. x against y. For b >= 1, with b = 1 + g (b' - 1) and c = b / b',

       H_b(P, Q) = g H_b'(N(v), (1 - c) N(a) + c N(w)) <= g H_b'(N(2), N(0))

   by convexity (Balle et al. 2018): that is H_b of the pair of 1. For b < 1 it is the
   same with the roles of the pair swapped, as H_b(P, Q) = 1 - b + b H_1/b(Q, P). No a,
   v, w is the worst at all b (v = 1, a = w = -1 is from 1 on, v = a = 1, w = -1 below),
   and an adversary who sees the steps so far can choose anew. So the steps are
   dominated by the pair of both (`revealed`), and not by that of 1: a lower bound.
3. With replacement, x is drawn K times, K binomial, and 1. becomes the mixture of
   N(2 K) against N(0). In 2., H_b' is at most the mean over K > 0 of that of N(2 K)
   and N(0), as if K were revealed.
4. Poisson samples cut to M examples. With R the number of the others drawn, nothing is
   cut for R < M: a Poisson sample. For R >= M, x has another's place with probability
   g = P(x is in the batch | R >= M): 1. and 2. Whether R >= M counts as revealed.

Against an example that contributes nothing, 2. and 3. hold with w = 0.

References:
  Balle, Barthe and Gaboardi (2018), Privacy amplification by subsampling; Zhu, Dong and
  Wang (2022), Optimal accounting of differential privacy via characteristic function,
  theorem 11; Lebeda, Regehr, Kamath and Steinke (2024), Avoiding pitfalls for privacy
  accounting of subsampled mechanisms under composition, arXiv 2405.20769; for 3.,
  Choquette-Choo et al. (2024), Privacy amplification for matrix mechanisms; for 4.,
  Ganesh et al. (2025), arXiv 2508.15089.
"""

import math

import dp_accounting
import numpy as np
from dp_accounting import dp_event
from scipy import stats

from dpjax import _check
from dpjax._events import RandomAllocationDpEvent
from dpjax.accounting.epsilon import AccountingError
from dpjax.accounting.events import Event, Parts, Relation
from dpjax.accounting.laws import mixture
from dpjax.accounting.laws.allocated import AllocatedGaussian
from dpjax.accounting.laws.privacy_loss import SampledGaussian
from dpjax.accounting.laws.revealed import Component, RevealedMixture

_NEVER = 1e-300
"""What is rarer does not happen: no delta that can be asked for is near it."""

_MOST_COPIES = 512
"""Numbers of copies of an example in one batch that are told apart."""

_MOST_DRAWS = 2**53
"""Draws of one batch; of more, numbers of copies are no integers in float64."""


def rewritten(parts: Parts, relation: Relation) -> Parts:
    """Return `parts` with batches of fixed size as what is known better, where it is.

    | drawn               | under add-or-remove          | otherwise         |
    | ------------------- | ---------------------------- | ----------------- |
    | without replacement | Poisson sampled, noise s / 2 | itself            |
    | the same, everybody | Gaussian, noise s / 2        | Gaussian, noise s |
    | with replacement    | mixture of Gaussians         | itself            |
    | once, into a tree   | itself: no sound account     | Gaussian, below   |
    | in k of t steps     | in 1 of floor(t / k), k times: `laws.allocated`  |
    | the same, replaced  |                              | Gaussian, k times |

    A tree of n steps adds each example to at most d = ceil(log2(n + 1)) of its sums,
    whatever the others do: a Gaussian release of noise s / d^(1/2) (Kairouz et al.
    2021, Practical and private (deep) learning without sampling or shuffling). With one
    example less, others would change their steps.

    Args:
      parts: what was released, from `events.take_apart`.
      relation: which data sets are neighbours.
    """
    return [
        (_rewritten(part, relation), count * _participations(part))
        for part, count in parts
    ]


def laws(part: Event, relation: Relation) -> RevealedMixture | AllocatedGaussian | None:
    """Return laws that dominate `part`, or None for what is no such batch.

    Args:
      part: an event from `events.take_apart`.
      relation: which data sets are neighbours.
    """
    if isinstance(part, dp_accounting.SampledWithoutReplacementDpEvent):
        pair = SampledGaussian(part.event.noise_multiplier / 2, _rate(part))
        return RevealedMixture((Component(1.0, pair, _swaps(relation)),))
    if isinstance(part, dp_accounting.SampledWithReplacementDpEvent):
        copies, masses = _copies(part)
        return _by_shift(
            part.event.noise_multiplier, 2.0 * copies, masses, _swaps(relation)
        )
    if isinstance(part, dp_accounting.TruncatedSubsampledGaussianDpEvent):
        return _truncated(part, relation)
    if isinstance(part, RandomAllocationDpEvent):
        return AllocatedGaussian(part.event.noise_multiplier, part.num_steps)
    return None


def mixture_laws(part: dp_event.MixtureOfGaussiansDpEvent) -> RevealedMixture:
    """Return laws that dominate a mixture of Gaussians: as if the shift were revealed.

    N(c) with probability p_c, against N(0): given that c is not 0, and c.
    """
    pair = mixture.from_event(part)
    shifts, masses = np.array(pair.shifts), np.array(pair.masses)
    return _by_shift(pair.noise, shifts, masses, swapped=False)


def _swaps(relation: Relation) -> bool:
    return relation != Relation.ADD_OR_REMOVE_ONE


def _rate(part: dp_accounting.SampledWithoutReplacementDpEvent) -> float:
    return part.sample_size / part.source_dataset_size


def _rewritten(part: Event, relation: Relation) -> Event:
    adds = relation == Relation.ADD_OR_REMOVE_ONE
    if isinstance(part, dp_accounting.SampledWithoutReplacementDpEvent):
        noise, rate = part.event.noise_multiplier, _rate(part)
        half = dp_accounting.GaussianDpEvent(noise / 2)
        if rate == 1:
            return half if adds else part.event
        return dp_accounting.PoissonSampledDpEvent(rate, half) if adds else part
    if adds and isinstance(part, dp_accounting.SampledWithReplacementDpEvent):
        copies, masses = _copies(part)
        noise = part.event.noise_multiplier
        return dp_event.MixtureOfGaussiansDpEvent(
            noise, (2.0 * copies).tolist(), masses.tolist()
        )
    if isinstance(part, dp_accounting.SingleEpochTreeAggregationDpEvent) and not adds:
        return _one_epoch(part)
    if isinstance(part, RandomAllocationDpEvent):
        steps = part.num_steps // part.num_participations
        # Of two examples in the same steps, the pair is that of these steps alone.
        if steps == 1 or relation == Relation.REPLACE_ONE:
            return part.event
        return RandomAllocationDpEvent(steps, 1, part.event)
    return part


def _participations(part: Event) -> int:
    """Return how often `_rewritten` is to be composed."""
    if isinstance(part, RandomAllocationDpEvent):
        return part.num_participations
    return 1


def _one_epoch(
    part: dp_accounting.SingleEpochTreeAggregationDpEvent,
) -> dp_accounting.GaussianDpEvent:
    """Return what an example releases that is added to one tree, once."""
    name = "SingleEpochTreeAggregationDpEvent"
    noise = _check.positive(f"{name}.noise_multiplier", part.noise_multiplier)
    counts = np.atleast_1d(part.step_counts).tolist()
    if not counts:
        _check.fail("at least one tree", f"{name}.step_counts", part.step_counts)
    most = max(_check.integer(f"{name}.step_counts", n, minimum=1) for n in counts)
    return dp_accounting.GaussianDpEvent(noise / math.sqrt(most.bit_length()))


def _copies(
    part: dp_accounting.SampledWithReplacementDpEvent,
) -> tuple[np.ndarray, np.ndarray]:
    """Return how often an example may be drawn, and with what probability: (k,).

    Of many numbers of copies, no more are told apart than are worth it, and those
    between them count as the next higher. More copies cost more, whether their number
    is revealed or not (Choquette-Choo et al. 2024).
    """
    size = part.sample_size
    if size > _MOST_DRAWS:
        _check.fail("at most 2^53", "sample_size", size, AccountingError)
    law = stats.binom(size, 1 / part.source_dataset_size)
    mean = law.mean()
    reach = 40 * math.sqrt(mean) + 400
    first, last = max(0, math.floor(mean - reach)), min(size, math.ceil(mean + reach))
    width = -(-(last - first) // _MOST_COPIES)
    # No copies at all stay apart: what is released then is nothing.
    copies = np.append(np.arange(first, last, width), last)
    if width == 1:
        masses = law.pmf(copies)
    else:
        below = np.append(-1, copies[:-1])
        lower = law.cdf(copies) - law.cdf(below)
        masses = np.where(copies < mean, lower, law.sf(below) - law.sf(copies))
    kept = masses > _NEVER
    return copies[kept], masses[kept]


def _by_shift(
    noise: float, shifts: np.ndarray, masses: np.ndarray, swapped: bool
) -> RevealedMixture:
    """Return the mixture over shifts c of (1 - p) N(0) + p N(c) against N(0)."""
    rate = float(masses[shifts > 0].sum())
    moved = sorted(zip(masses, shifts, strict=True), reverse=True)
    return RevealedMixture(
        tuple(
            Component(mass / rate, SampledGaussian(noise / c, min(rate, 1.0)), swapped)
            for mass, c in moved
            if c > 0 and mass > 0
        )
    )


def _truncated(
    part: dp_accounting.TruncatedSubsampledGaussianDpEvent, relation: Relation
) -> RevealedMixture:
    size, limit = part.dataset_size, part.truncated_batch_size
    rate, noise = part.sampling_probability, part.noise_multiplier
    cut = float(stats.binom.sf(limit - 1, size - 1, rate))
    taken = float(stats.binom.sf(limit, size, rate)) * limit / size
    whole = SampledGaussian(noise, rate, relation == Relation.REPLACE_ONE)
    found = [Component(1 - cut, whole, False)]
    if cut > _NEVER:
        place = SampledGaussian(noise / 2, min(taken / cut, rate))
        found.append(Component(cut, place, _swaps(relation)))
    kept = [component for component in found if component.weight > 0]
    return RevealedMixture(tuple(sorted(kept, key=lambda c: -c.weight)))
