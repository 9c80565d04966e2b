"""How far a model has memorised a secret: exposure, in bits."""

import numpy as np
import numpy.typing as npt
from scipy import stats

from dpjax import _check
from dpjax.auditing.from_scores import checked_scores

METHODS = ("interpolation", "extrapolation")


def exposure(
    secrets: npt.ArrayLike,
    references: npt.ArrayLike,
    *,
    method: str = "interpolation",
) -> np.ndarray:
    """Return the exposure of secrets among references that were not trained on.

    | method          | exposure                                                      |
    | --------------- | ------------------------------------------------------------- |
    | "interpolation" | log2 of the number of references over the rank among them     |
    | "extrapolation" | - log2 of their distribution function, a skew normal, fitted  |

    A secret that ties with a reference ranks after it. Interpolation ends at log2 of
    the number of references.

    Args:
      secrets: (n,) perplexities, or any score that is lower for what is memorised.
      references: (r,) those of other secrets of the same form.
      method: see the table.

    Returns:
      (n,), float64, in bits.

    Raises:
      ValueError, TypeError: scores that are empty or not finite; no such method.

    Example:
      >>> exposure([0.1, 3.5, 20.0], np.arange(1, 17)).round(4)
      array([ 4.    ,  2.    , -0.0875])

    References:
      Carlini et al. (2019), The secret sharer, sections 4.2 to 4.4.
    """
    _check.choice("method", method, METHODS)
    ours = checked_scores("secrets", secrets)
    others = np.sort(checked_scores("references", references))
    if method == "interpolation":
        ranks = 1 + np.searchsorted(others, ours, side="right")
        return np.log2(others.size) - np.log2(ranks)
    if others[0] == others[-1]:
        _check.fail("references that differ", "references", float(others[0]))
    log_share = stats.skewnorm.logcdf(ours, *stats.skewnorm.fit(others))
    return -log_share / np.log(2)
