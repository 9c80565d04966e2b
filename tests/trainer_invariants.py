"""Invariants of what a trainer releases: what one bug each would change.

They may choose the noise multiplier, the examples and the seed: with no noise and one
seed, a release is a plain function of the examples.
"""

import numpy as np
from broken_trainers import Array, Trainer, plan
from draws import two_sided
from scipy import stats
from trainer_terms import LARGE, ROWS, USUAL, Check, Terms, Verdict, without, worst

LEVEL = 1e-6
"""Probability, at most, that one with statistics finds fault where there is none."""

MULTIPLIER = 1.7
ROUNDING = 1e-3
"""What float32 may add to a sum of twenty clipped gradients, and more."""

DIRECTION = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 2, 8)
DIRECTION /= np.linalg.norm(DIRECTION)
"""A gradient of norm one, which all others of the sensitivity checks are near."""


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
    return float(two_sided(statistic, counts.size))


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
    return worst(verdicts)


INVARIANTS: dict[str, Check] = {
    "noise": noise,
    "fresh noise": fresh_noise,
    "public divisor": public_divisor,
    "sensitivity": sensitivity,
    "not finite": finite,
    "sampling": sampling,
}
