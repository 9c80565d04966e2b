"""Epsilon from bounds on the rates of a test: what differential privacy allows.

A mechanism that is (epsilon, delta)-DP allows tests with

    TPR <= e^epsilon FPR + delta    and    1 - FPR <= e^epsilon (1 - TPR) + delta

(Kairouz, Oh and Viswanath 2015), one that is mu-GDP those with
Phi^-1(TPR) - Phi^-1(FPR) <= mu (Dong, Roth and Su 2022).
"""

import math

import dp_accounting
import numpy as np
from scipy import special

from dpjax.auditing.rates import Rates


def epsilon(rates: Rates, delta: float) -> float:
    """Return the largest epsilon that some test rules out, at least 0.

    Args:
      rates: of tests, of which all bounds hold together.
      delta: in [0, 1).
    """
    true, false = (np.atleast_1d(np.asarray(rate, float)) for rate in rates)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = [
            np.log(true - delta) - np.log(false),
            np.log(1 - false - delta) - np.log(1 - true),
        ]
    return float(
        max(0.0, *(np.nan_to_num(x, nan=0.0, posinf=np.inf).max() for x in found))
    )


def mu(rates: Rates) -> float:
    """Return the largest mu, of mu-GDP, that some test rules out."""
    true, false = (np.atleast_1d(np.asarray(rate, float)) for rate in rates)
    with np.errstate(invalid="ignore"):
        found = special.ndtri(true) - special.ndtri(false)
    return float(max(0.0, np.nan_to_num(found, nan=0.0, posinf=np.inf).max()))


def gaussian_epsilon(rates: Rates, delta: float) -> float:
    """Return the epsilon of the largest mu that some test rules out, at delta > 0."""
    largest = mu(rates)
    if largest == 0 or math.isinf(largest):
        return largest
    return float(dp_accounting.get_epsilon_gaussian(1 / largest, delta))
