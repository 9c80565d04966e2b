"""Masses of two output laws between neighbouring outputs."""

from typing import NamedTuple

import numpy as np
from scipy import special


class Cells(NamedTuple):
    """Masses between neighbouring outputs: (n,) each.

    Attributes:
      upper: of P.
      lower: of Q.
      excess: of P less that of Q, without loss of digits.
    """

    upper: np.ndarray
    lower: np.ndarray
    excess: np.ndarray


def cell_masses(edges: np.ndarray) -> np.ndarray:
    """Return the standard normal's mass between neighbouring edges, tails in full."""
    low, high = edges[:-1], edges[1:]
    above = low > 0
    return special.ndtr(np.where(above, -low, high)) - special.ndtr(
        np.where(above, -high, low)
    )
