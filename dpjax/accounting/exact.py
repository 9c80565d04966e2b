"""The exact accountant: the true epsilon of Gaussian releases, with an error bar.

The transform of the privacy loss is inverted along a contour through its saddle point;
where that is weak, the accountant of privacy loss distributions answers.
"""

from collections.abc import Sequence

import numpy as np

from dpjax.accounting import contour, cumulant, pld
from dpjax.accounting.epsilon import Epsilon
from dpjax.accounting.events import Parts, Relation

_TAIL = 1e-6


def epsilon(parts: Parts, delta: float, relation: Relation) -> Epsilon:
    """Return the epsilon of `parts` at `delta`: not below the truth, and next to it.

    Args:
      parts: what was released, from `events.take_apart`.
      delta: in (0, 1).
      relation: which data sets are neighbours.

    Raises:
      AccountingError: there is no sound account of a part under `relation`.
    """
    if not pld.is_gaussian(parts) or not pld.is_sampled(parts):
        return pld.epsilon(parts, delta, relation)
    try:
        return _by_contour(parts, delta, relation)
    except (contour.WeakContourError, cumulant.TooManyNodesError):
        return pld.epsilon(parts, delta, relation)


def curve(
    parts: Parts, delta: float, relation: Relation, steps: Sequence[int]
) -> np.ndarray:
    """Return epsilon after each number of `steps`, one step releasing `parts`."""
    return np.array(
        [
            epsilon([(part, n * count) for part, count in parts], delta, relation)
            if n
            else 0.0
            for n in steps
        ],
        dtype=float,
    )


def _by_contour(parts: Parts, delta: float, relation: Relation) -> Epsilon:
    pairs = [pld.pair(part, relation) for part, _ in parts]
    counts = np.array([count for _, count in parts], dtype=float)
    if sum(n * pair.distance for pair, n in zip(pairs, counts, strict=True)) <= delta:
        return Epsilon(0.0, error=0.0, method="exact")
    tail = max(_TAIL * delta / counts.sum(), 1e-300)
    rules = [pair.nodes(tail) for pair in pairs]
    symmetric = all(pair.symmetric for pair in pairs)
    value, error = max(
        contour.solve(
            contour.Side(pairs, counts, added), [rule[added] for rule in rules], delta
        )
        for added in ((False,) if symmetric else (False, True))
    )
    return Epsilon(max(0.0, value + error), error=2 * error, method="exact")
