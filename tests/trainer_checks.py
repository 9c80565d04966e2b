"""Checks of a trainer as a black box: does it release what its plan promises?

Audits attack it and bound epsilon from below. The invariants of a release look at what
one bug each would change: they may choose the noise multiplier, the examples and the
seed, and with no noise and one seed a release is a plain function of the examples.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
from broken_trainers import Array, Trainer, plan
from scipy import stats
from trainer_attacks import ATTACKS, LARGE, ROWS, Attack, Terms, without

from dpjax.auditing import one_run_epsilon

SIGNIFICANCE = 0.01
"""Probability, at most, that the audits find fault with a trainer that has none."""

LEVEL = 1e-6
"""The same of the invariants that are statistical, each."""

MULTIPLIER = 1.7
USUAL = Terms()
"""A row is there or not, and batches are drawn."""

Check = Callable[..., "Verdict | None"]

CANARIES = 1000
ROUNDING = 1e-3
"""What float32 may add to a sum of twenty clipped gradients, and more."""

DIRECTION = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 2, 8)
DIRECTION /= np.linalg.norm(DIRECTION)
"""A gradient of norm one, which all others of the sensitivity checks are near."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        caught: Whether the promise is broken.
        found: What was measured.
        allowed: What is promised.
        where: The case of those numbers.
    """

    caught: bool
    found: float
    allowed: float
    where: str


# Audits.


def audit_of_end(trainer: Trainer, terms: Terms = USUAL) -> Verdict:
    """Attack the model at the end of training: bounds on epsilon, in nats."""
    return _audit(trainer, terms, "end")


def audit_of_steps(trainer: Trainer, terms: Terms = USUAL) -> Verdict | None:
    """Attack by what the steps tell, and their sum does not."""
    return _audit(trainer, terms, "steps") if terms.samples else None


def audit_of_one_run(trainer: Trainer, terms: Terms = USUAL) -> Verdict:
    """Attack one run with many canaries, each in it by a fair coin."""
    coins = np.random.default_rng(1).random(CANARIES) < 0.5
    if terms.absent == "removed":
        promise = plan(6.0, rows=CANARIES // 2, steps=4)
    else:
        promise = plan(6.0, rows=CANARIES, steps=4)
    # Every canary has a coordinate of its own, in either layer.
    canaries = LARGE * np.eye(CANARIES, dtype=np.float32)
    canaries = canaries.reshape(CANARIES, 2, CANARIES // 2)
    examples = without(canaries[coins], canaries[~coins], terms.absent)
    (steps,) = np.asarray(trainer(promise, examples, 1, 5))
    order = np.argsort(np.nan_to_num(steps.sum(axis=0).ravel(), nan=1e9))
    quarter = CANARIES // 4
    right = (~coins[order[:quarter]]).sum() + coins[order[-quarter:]].sum()
    found = one_run_epsilon(
        num_canaries=CANARIES,
        num_guesses=2 * quarter,
        num_correct=int(right),
        delta=1e-5,
        significance=SIGNIFICANCE,
        method="fdp",
    )
    stated = float(promise.epsilon(1e-5))
    return Verdict(bool(found > stated), float(found), stated, "many canaries")


def _audit(trainer: Trainer, terms: Terms, sees: str) -> Verdict:
    return _worst(
        _of_attack(trainer, attack, terms)
        for attack in ATTACKS
        if attack.sees == sees
        and (terms.samples or attack.worlds.plan.sampling_prob == 1)
    )


def _of_attack(trainer: Trainer, attack: Attack, terms: Terms) -> Verdict:
    level = SIGNIFICANCE / len(ATTACKS)
    found = attack.bound(trainer, terms, significance=level)
    stated = attack.worlds.stated
    return Verdict(bool(found > stated), float(found), stated, attack.title)


def _worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict furthest above the promise, with all cases that are above."""
    ranked = sorted(verdicts, key=lambda v: v.found / v.allowed, reverse=True)
    where = [verdict.where for verdict in ranked if verdict.caught]
    return dataclasses.replace(ranked[0], where=", ".join(where or [ranked[0].where]))


# Invariants of the release.


def noise(trainer: Trainer, terms: Terms = USUAL) -> Verdict:
    """Compare the noise multiplier of released noise with the plan's, step by step."""
    steps = _noise_of(trainer, ROWS, num_steps=4)[0]
    spreads = steps.reshape(len(steps), -1).std(axis=1)
    values = stats.kstest(steps.ravel() / MULTIPLIER, "norm").pvalue
    worst = float(spreads[np.argmax(np.abs(np.log(spreads / MULTIPLIER + 1e-9)))])
    # The standard error of a standard deviation is stddev / sqrt(2 size).
    off = abs(worst / MULTIPLIER - 1) > 5 / np.sqrt(2 * steps[0].size)
    return Verdict(bool(off or values < LEVEL), worst, MULTIPLIER, "noise multiplier")


def fresh_noise(trainer: Trainer, terms: Terms = USUAL) -> Verdict:
    """Correlate the noise of steps, layers and runs with each other."""
    found = _noise_of(trainer, ROWS, num_steps=4)
    vectors = found.reshape(-1, found.shape[-1])
    most = 5 / np.sqrt(vectors.shape[1])
    if not vectors.std(axis=1).all():
        return Verdict(False, 0.0, most, "there is no noise")
    pairs = np.corrcoef(vectors)[np.triu_indices(len(vectors), 1)]
    worst = float(np.abs(pairs).max())
    return Verdict(worst > most, worst, most, "correlation")


def public_divisor(trainer: Trainer, terms: Terms = USUAL) -> Verdict | None:
    """Compare the noise of few and of many rows, in units of the plan's divisor."""
    if terms.absent != "removed":
        return None  # The size of a batch of all rows is public.
    small, large = (
        float(_noise_of(trainer, count, num_steps=1).std())
        for count in (ROWS // 2, 2 * ROWS)
    )
    ratio = small / large if large else 1.0
    return Verdict(abs(ratio - 1) > 0.05, ratio, 1.0, "noise of few rows")


def sensitivity(trainer: Trainer, terms: Terms = USUAL) -> Verdict:
    """Measure how far one example moves a step's sum, in clip norms."""
    first, second = np.eye(2, dtype=np.float32)[:, None, :, None] * DIRECTION
    canaries = {
        "along the others": LARGE * DIRECTION,
        "against the others": -LARGE * DIRECTION,
        "first layer": LARGE * first,
        "second layer": LARGE * second,
        "small": 1e-3 * DIRECTION,
        "huge": 1e30 * DIRECTION,
    }
    return _moved(trainer, terms, canaries)


def finite(trainer: Trainer, terms: Terms = USUAL) -> Verdict:
    """Measure how far an example that is not finite moves a step's sum."""
    once = np.where(np.arange(16).reshape(1, 2, 8) == 3, np.inf, DIRECTION)
    canaries = {
        "NaN": np.nan * DIRECTION,
        "infinite": np.inf * DIRECTION,
        "one infinity": once.astype(np.float32),
    }
    return _moved(trainer, terms, canaries)


def sampling(trainer: Trainer, terms: Terms = USUAL) -> Verdict | None:
    """Test who takes part against Poisson sampling: a p-value.

    The counts of an example's steps in a run, and of a step's examples, are binomial.
    """
    if not terms.samples:
        return None
    promise = plan(0.0, rows=ROWS, steps=50, batch=4)
    examples = np.zeros((ROWS, 2, ROWS), np.float32)
    examples[:, 0] = LARGE * np.eye(ROWS)
    steps = np.asarray(trainer(promise, examples, 400, 3))
    taken = np.abs(np.nan_to_num(steps[:, :, 0])) > 1e-3  # (runs, steps, rows)
    rate = promise.sampling_prob
    found = [
        _binomial(taken.sum(axis=axis), taken.shape[axis], rate) for axis in (1, 2)
    ]
    worst = min(1.0, 2 * min(found))  # Bonferroni's inequality, for two tests.
    return Verdict(worst < LEVEL, worst, LEVEL, "p-value")


def _binomial(counts: Array, trials: int, rate: float) -> float:
    """Return the p-value of counts by their spread around the mean of the law."""
    variance = trials * rate * (1 - rate)
    statistic = ((counts - trials * rate) ** 2).sum() / variance
    tails = (
        stats.chi2.sf(statistic, counts.size),
        stats.chi2.cdf(statistic, counts.size),
    )
    return float(2 * min(tails))


def _noise_of(trainer: Trainer, count: int, *, num_steps: int) -> Array:
    """Return the noise of two runs on examples of gradient zero."""
    promise = plan(MULTIPLIER, rows=ROWS, steps=num_steps)
    examples = np.zeros((count, 2, 1000), np.float32)
    return np.asarray(trainer(promise, examples, 2, 4), np.float64)


def _moved(trainer: Trainer, terms: Terms, canaries: dict[str, Array]) -> Verdict:
    """Return the most that a canary moves the sum of a step without noise."""
    silent = plan(0.0, rows=ROWS, steps=3)
    scatter = np.random.default_rng(2).normal(size=(ROWS - 1, 2, 8)).astype(np.float32)
    others = 3 * DIRECTION + 0.1 * scatter
    nobody = without(others, np.zeros_like(DIRECTION), terms.absent)
    reference = np.asarray(trainer(silent, nobody, 1, 6), np.float64)
    verdicts = []
    for title, canary in canaries.items():
        examples = np.concatenate([others, canary])
        with_it = np.asarray(trainer(silent, examples, 1, 6), np.float64)
        with np.errstate(invalid="ignore"):
            squares = ((with_it - reference) ** 2).sum(axis=(2, 3))
        moved = np.nan_to_num(np.sqrt(squares), nan=np.inf).max()
        verdicts.append(Verdict(bool(moved > 1 + ROUNDING), float(moved), 1.0, title))
    return _worst(verdicts)


INVARIANTS: dict[str, Check] = {
    "noise": noise,
    "fresh noise": fresh_noise,
    "public divisor": public_divisor,
    "sensitivity": sensitivity,
    "not finite": finite,
    "sampling": sampling,
}
AUDITS: dict[str, Check] = {
    "model at the end": audit_of_end,
    "all steps": audit_of_steps,
    "one run": audit_of_one_run,
}
CHECKS = AUDITS | INVARIANTS
