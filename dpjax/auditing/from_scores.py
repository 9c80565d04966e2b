"""Lower bounds on epsilon from scores of members and others."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from dpjax import _check
from dpjax.auditing import bands, from_rates, ratios
from dpjax.auditing.lower_bound import LowerBound, checked_delta
from dpjax.auditing.rates import Counts, Rates, clopper_pearson

METHODS = ("clopper_pearson", "gdp", *ratios.RATIOS)
THRESHOLDS = ("band", "split")


def epsilon_from_counts(
    true_positives: int,
    num_in: int,
    false_positives: int,
    num_out: int,
    *,
    delta: float,
    significance: float,
    method: str = "clopper_pearson",
) -> LowerBound:
    """Return a lower bound on epsilon from how often one test was right and wrong.

    | method            | holds                                                        |
    | ----------------- | ------------------------------------------------------------ |
    | "clopper_pearson" | always: from either side of the test                         |
    | "gdp"             | where the mechanism's trade-off curve is Gaussian            |
    | "katz", "bailey", | at delta 0, for many trials, approximately                   |
    | "adjusted_log",   |                                                              |
    | "inverse_sinh"    |                                                              |

    Args:
      true_positives: members called members, of `num_in`, in independent trials.
      num_in: members.
      false_positives: others called members, of `num_out`.
      num_out: others.
      delta: in [0, 1); above 0 for "gdp".
      significance: in (0, 1), the probability, at most, that the bound is too high.
      method: see the table.

    Raises:
      ValueError, TypeError: a number is out of range, or delta does not fit the method.

    Guarantee: the test was fixed before the trials, and these are independent.

    Example:
      >>> bound = epsilon_from_counts(500, 500, 0, 500, delta=0, significance=0.01)
      >>> round(bound, 4)
      4.5419

    References:
      Jagielski, Ullman and Oprea (2020), Auditing differentially private machine
      learning; Nasr et al. (2023), Tight auditing of differentially private machine
      learning, for "gdp".
    """
    counts = Counts.checked(true_positives, num_in, false_positives, num_out)
    delta, level = _settings(delta, significance, method)
    return _bound(_of_counts(counts, delta, level, method), delta, level, method)


def epsilon_from_scores(
    in_scores: npt.ArrayLike,
    out_scores: npt.ArrayLike,
    *,
    delta: float,
    significance: float,
    method: str = "clopper_pearson",
    threshold: float | str = "band",
    seed: int = 0,
) -> LowerBound:
    """Return a lower bound on epsilon from scores that are larger for members.

    | threshold | the test                                                            |
    | --------- | ------------------------------------------------------------------- |
    | a number  | "score above it", fixed before the scores were seen                 |
    | "band"    | the best of all: bounds that hold for all at once (`bands`)         |
    | "split"   | the best on a random half of the scores, used on the other half     |

    Args:
      in_scores: (n,) scores of members, finite, of independent trials.
      out_scores: (m,) scores of others.
      delta: in [0, 1); above 0 for "gdp".
      significance: in (0, 1), the probability, at most, that the bound is too high.
      method: as in `epsilon_from_counts`; "band" is for the first two.
      threshold: see the table.
      seed: of the halves.

    Raises:
      ValueError, TypeError: scores that are empty or not finite, a number that is out
        of range, or a delta or threshold that does not fit the method.

    Guarantee: trials are independent. Many canaries of one run are not quite: see
    `one_run_epsilon`.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> members, others = rng.normal(2, size=1000), rng.normal(size=1000)
      >>> bound = epsilon_from_scores(members, others, delta=1e-5, significance=0.05)
      >>> 2 < bound < 9.9973  # N(0, 1) against N(2, 1)
      True
    """
    scores = (
        checked_scores("in_scores", in_scores),
        checked_scores("out_scores", out_scores),
    )
    delta, level = _settings(delta, significance, method)
    if threshold == "band":
        value = _of_band(*scores, delta, level, method)
    elif threshold == "split":
        value = _of_halves(*scores, delta, level, method, seed)
    else:
        counts = counts_at(*scores, _check.real("threshold", threshold))
        value = _of_counts(counts, delta, level, method)
    return _bound(value, delta, level, method)


def checked_scores(name: str, scores: npt.ArrayLike) -> np.ndarray:
    """Return scores as float64, (n,).

    Raises:
      TypeError: they are no real numbers.
      ValueError: there are none, they have more than one axis, or are not finite.
    """
    try:
        array = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError):
        _check.fail("real numbers", name, type(scores), TypeError)
    if array.ndim != 1 or not array.size:
        _check.fail("a non-empty vector", f"{name}.shape", array.shape)
    if not np.isfinite(array).all():
        _check.fail(
            "finite scores",
            f"the non-finite ones of {name}",
            int((~np.isfinite(array)).sum()),
        )
    return array


def counts_at(
    in_scores: np.ndarray, out_scores: np.ndarray, threshold: float
) -> Counts:
    """Return what comes of the test "score above the threshold"."""
    true, false = (int((s > threshold).sum()) for s in (in_scores, out_scores))
    return Counts(true, in_scores.size, false, out_scores.size)


def band_rates(
    in_scores: np.ndarray, out_scores: np.ndarray, significance: float
) -> tuple[np.ndarray, Rates]:
    """Return all thresholds, and bounds on their rates that hold together."""
    thresholds = np.unique(np.concatenate([in_scores, out_scores]))
    ins, outs = np.sort(in_scores), np.sort(out_scores)
    missed = np.searchsorted(ins, thresholds, side="right")
    false = outs.size - np.searchsorted(outs, thresholds, side="right")
    return thresholds, Rates(
        1 - bands.error_bounds(missed, ins.size, significance / 2),
        bands.error_bounds(false, outs.size, significance / 2),
    )


def _settings(delta: float, significance: float, method: str) -> tuple[float, float]:
    _check.choice("method", method, METHODS)
    delta = checked_delta(delta)
    if method == "gdp" and delta == 0:
        _check.fail("a delta > 0 with method='gdp'", "delta", delta)
    if method in ratios.RATIOS and delta > 0:
        _check.fail(f"delta = 0 with method={method!r}", "delta", delta)
    return delta, _check.open_unit("significance", significance)


def _of_rates(method: str) -> Callable[[Rates, float], float]:
    return from_rates.gaussian_epsilon if method == "gdp" else from_rates.epsilon


def _of_counts(counts: Counts, delta: float, level: float, method: str) -> float:
    if method in ratios.RATIOS:
        return ratios.RATIOS[method](counts, level)
    return _of_rates(method)(clopper_pearson(counts, level), delta)


def _of_band(
    ins: np.ndarray, outs: np.ndarray, delta: float, level: float, method: str
) -> float:
    if method in ratios.RATIOS:
        expected = f"a number or 'split' with method={method!r}"
        _check.fail(expected, "threshold", "band")
    _, rates = band_rates(ins, outs, level)
    return _of_rates(method)(rates, delta)


def _of_halves(
    ins: np.ndarray,
    outs: np.ndarray,
    delta: float,
    level: float,
    method: str,
    seed: int,
) -> float:
    if min(ins.size, outs.size) < 2:
        _check.fail("two scores of each kind to split", "threshold", "split")
    generator = np.random.default_rng(_check.integer("seed", seed, minimum=0))
    halves = [
        np.array_split(generator.permutation(scores), 2) for scores in (ins, outs)
    ]
    (first_in, last_in), (first_out, last_out) = halves
    thresholds, rates = band_rates(first_in, first_out, level)
    pointwise = [
        _of_rates("clopper_pearson")(Rates(true, false), 0.0)
        for true, false in zip(*map(np.atleast_1d, rates), strict=True)
    ]
    best = thresholds[int(np.argmax(pointwise))]
    return _of_counts(counts_at(last_in, last_out, best), delta, level, method)


def _bound(value: float, delta: float, level: float, method: str) -> LowerBound:
    return LowerBound(value, delta=delta, significance=level, method=method)
