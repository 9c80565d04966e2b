"""Delta and epsilon by Monte Carlo: an estimate, and a bound with a confidence.

For pairs of output laws that can be sampled and whose likelihood ratio is known, where
no accountant has an exact number or the exact one asks for a check from outside.
"""

from dpjax.accounting.monte_carlo.estimates import (
    MonteCarloDelta,
    MonteCarloEpsilon,
    delta,
    epsilon,
)
from dpjax.accounting.monte_carlo.from_event import Composed, pair_of
from dpjax.accounting.monte_carlo.pairs import (
    Allocated,
    Pair,
    Repeated,
    ShiftedGaussians,
)
from dpjax.accounting.monte_carlo.separated import Separated

__all__ = [
    "Allocated",
    "Composed",
    "MonteCarloDelta",
    "MonteCarloEpsilon",
    "Pair",
    "Repeated",
    "Separated",
    "ShiftedGaussians",
    "delta",
    "epsilon",
    "pair_of",
]
