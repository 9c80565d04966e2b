"""How often a test is right and wrong: counts, and bounds on the rates behind them."""

from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from scipy import stats

from dpjax import _check


class Counts(NamedTuple):
    """What came of a test: of `num_in` members, `true_positives` were called members.

    Attributes:
      true_positives: members called members.
      num_in: members.
      false_positives: others called members.
      num_out: others.
    """

    true_positives: int
    num_in: int
    false_positives: int
    num_out: int

    @classmethod
    def checked(
        cls, true_positives: int, num_in: int, false_positives: int, num_out: int
    ) -> Self:
        """Return counts that fit together.

        Raises:
          ValueError: there are no members or no others, or more called than there are.
        """
        num_in = _check.integer("num_in", num_in, minimum=1)
        num_out = _check.integer("num_out", num_out, minimum=1)
        counts = cls(
            _check.integer("true_positives", true_positives, minimum=0),
            num_in,
            _check.integer("false_positives", false_positives, minimum=0),
            num_out,
        )
        if counts.true_positives > num_in:
            expected = f"at most the {num_in} members"
            _check.fail(expected, "true_positives", counts.true_positives)
        if counts.false_positives > num_out:
            expected = f"at most the {num_out} others"
            _check.fail(expected, "false_positives", counts.false_positives)
        return counts


class Rates(NamedTuple):
    """A lower bound on TPR and an upper one on FPR: scalars, or arrays of tests."""

    true_positive: npt.ArrayLike
    false_positive: npt.ArrayLike


def clopper_pearson_lower(
    successes: npt.ArrayLike, trials: npt.ArrayLike, significance: npt.ArrayLike
) -> np.ndarray:
    """Return lower bounds on the probability of success, each right but for a chance.

    References:
      Clopper and Pearson (1934), The use of confidence or fiducial limits illustrated
      in the case of the binomial.
    """
    k, n = np.asarray(successes, float), np.asarray(trials, float)
    with np.errstate(invalid="ignore"):
        found = stats.beta.ppf(significance, k, n - k + 1)
    return np.where(k == 0, 0.0, found)


def clopper_pearson_upper(
    successes: npt.ArrayLike, trials: npt.ArrayLike, significance: npt.ArrayLike
) -> np.ndarray:
    """Return upper bounds on the probability of success; see the lower ones."""
    k, n = np.asarray(successes, float), np.asarray(trials, float)
    with np.errstate(invalid="ignore"):
        found = stats.beta.isf(significance, k + 1, n - k)
    return np.where(k == n, 1.0, found)


def clopper_pearson(counts: Counts, significance: float) -> Rates:
    """Return bounds that both hold but for a chance of `significance`."""
    return Rates(
        clopper_pearson_lower(counts.true_positives, counts.num_in, significance / 2),
        clopper_pearson_upper(counts.false_positives, counts.num_out, significance / 2),
    )
