"""How well scores tell members from others: area under the curve, and its low end."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from dpjax import _check
from dpjax.auditing.from_scores import checked_scores
from dpjax.auditing.rates import clopper_pearson_lower, clopper_pearson_upper


class Interval(NamedTuple):
    """An estimate between two ends, which hold it at some confidence."""

    value: float
    low: float
    high: float


def auroc(
    in_scores: npt.ArrayLike, out_scores: npt.ArrayLike, *, significance: float = 0.05
) -> Interval:
    """Return the area under the ROC curve: P(member scores higher), ties for a half.

    Args:
      in_scores: (n,) scores of members.
      out_scores: (m,) scores of others.
      significance: of the interval, in (0, 1), by the normal approximation of DeLong.

    Raises:
      ValueError, TypeError: scores that are empty or not finite; out of range.

    Example:
      >>> auroc([3.0, 2.0], [1.0, 2.0]).value
      0.875

    References:
      DeLong, DeLong and Clarke-Pearson (1988), Comparing the areas under two or more
      correlated receiver operating characteristic curves.
    """
    ins = checked_scores("in_scores", in_scores)
    outs = checked_scores("out_scores", out_scores)
    level = _check.open_unit("significance", significance)
    of_members, of_others = _placements(ins, outs), 1 - _placements(outs, ins)
    value = float(of_members.mean())
    parts = [
        part.var(ddof=1) / part.size
        for part in (of_members, of_others)
        if part.size > 1
    ]
    spread = float(stats.norm.isf(level / 2) * np.sqrt(sum(parts)))
    return Interval(value, max(0.0, value - spread), min(1.0, value + spread))


def tpr_at_fpr(
    in_scores: npt.ArrayLike,
    out_scores: npt.ArrayLike,
    fpr: float,
    *,
    significance: float = 0.05,
) -> Interval:
    """Return the TPR of the best test whose FPR among the others is at most `fpr`.

    Args:
      in_scores: (n,) scores of members.
      out_scores: (m,) scores of others.
      fpr: in (0, 1].
      significance: of the interval (Clopper and Pearson) of the TPR, at this threshold.

    Raises:
      ValueError, TypeError: scores that are empty or not finite; out of range.

    Example:
      >>> tpr_at_fpr([3.0, 2.0, 0.0], [1.0, 1.5, 0.5, 0.2], 0.25).value.__round__(3)
      0.667
    """
    ins = checked_scores("in_scores", in_scores)
    outs = np.sort(checked_scores("out_scores", out_scores))[::-1]
    allowed = int(_check.probability("fpr", fpr) * outs.size + 1e-9)
    level = _check.open_unit("significance", significance) / 2
    threshold = outs[allowed] if allowed < outs.size else -np.inf
    hits = int((ins > threshold).sum())
    low = clopper_pearson_lower(hits, ins.size, level)
    high = clopper_pearson_upper(hits, ins.size, level)
    return Interval(hits / ins.size, float(low), float(high))


def _placements(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the share of the others that each score is above, ties for a half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, scores, side="left")
    up_to = np.searchsorted(ordered, scores, side="right")
    return (below + up_to) / (2 * ordered.size)
