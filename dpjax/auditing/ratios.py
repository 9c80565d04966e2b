"""Classical intervals for the ratio TPR / FPR, whose logarithm is epsilon at delta 0.

They hold for many trials, approximately; `clopper_pearson` holds always.

References:
  Katz et al. (1978), Obtaining confidence intervals for the risk ratio in cohort
  studies; Walter (1975), The distribution of Levin's measure of attributable risk;
  Bailey (1987), Confidence limits to the risk ratio; Newcombe (2001), Logit confidence
  intervals and the inverse sinh transformation.
"""

import math
from collections.abc import Callable

from scipy import special

from dpjax.auditing.rates import Counts


def katz(counts: Counts, significance: float) -> float:
    """Return the logarithm of a lower bound by the interval of Katz et al."""
    tp, n_in, fp, n_out = _with_a_half(counts)
    spread = math.sqrt((1 - tp / n_in) / tp + (1 - fp / n_out) / fp)
    return _log_ratio(tp, n_in, fp, n_out) + special.ndtri(significance) * spread


def adjusted_log(counts: Counts, significance: float) -> float:
    """Return the logarithm of a lower bound by Walter's adjusted interval."""
    tp, n_in, fp, n_out = (number + 0.5 for number in counts)
    spread = math.sqrt(1 / tp - 1 / n_in + 1 / fp - 1 / n_out)
    return _log_ratio(tp, n_in, fp, n_out) + special.ndtri(significance) * spread


def bailey(counts: Counts, significance: float) -> float:
    """Return the logarithm of a lower bound by Bailey's interval."""
    tp, n_in, fp, n_out = _with_a_half(counts)
    miss_in, miss_out = 1 - tp / n_in, 1 - fp / n_out
    z = special.ndtri(significance)
    inside = miss_in / tp + miss_out / fp - z**2 * miss_in * miss_out / (9 * tp * fp)
    factor = (1 + z / 3 * math.sqrt(max(0.0, inside))) / (
        1 - z**2 * miss_out / (9 * fp)
    )
    if factor <= 0:
        return -math.inf
    return _log_ratio(tp, n_in, fp, n_out) + 3 * math.log(factor)


def inverse_sinh(counts: Counts, significance: float) -> float:
    """Return the logarithm of a lower bound by the inverse hyperbolic sine."""
    tp, n_in, fp, n_out = _with_a_half(counts)
    spread = math.sqrt(max(0.0, 1 / tp - 1 / n_in + 1 / fp - 1 / n_out))
    z = special.ndtri(significance)
    return _log_ratio(tp, n_in, fp, n_out) + 2 * math.asinh(z / 2 * spread)


RATIOS: dict[str, Callable[[Counts, float], float]] = {
    "katz": katz,
    "adjusted_log": adjusted_log,
    "bailey": bailey,
    "inverse_sinh": inverse_sinh,
}
"""The intervals by name."""


def _with_a_half(counts: Counts) -> tuple[float, int, float, int]:
    """Return the counts, half an event where there was none."""
    true, n_in, false, n_out = counts
    return (true or 0.5, n_in, false or 0.5, n_out)


def _log_ratio(tp: float, n_in: float, fp: float, n_out: float) -> float:
    return math.log(tp / n_in) - math.log(fp / n_out)
