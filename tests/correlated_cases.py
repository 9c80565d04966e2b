"""Strategies of every kind, which the tests of correlated noise share."""

import numpy as np

from dpjax.noise import correlated

STEPS = 13
"""Steps of the strategies below: no power of two, and more than their bands."""


def banded(steps=STEPS, bands=4, seed=0, lowest=0.1):
    """Return a general banded strategy with entries between `lowest` and 1."""
    generator = np.random.default_rng(seed)
    columns = generator.uniform(lowest, 1.0, size=(steps, bands))
    columns[:, 0] = 1 + np.abs(columns[:, 0])
    below = np.add.outer(np.arange(steps), np.arange(bands)) >= steps
    return correlated.Banded(np.where(below, 0, columns).tolist())


STRATEGIES = {
    "identity": correlated.Identity(),
    "one band": correlated.Toeplitz((2.0,)),
    "banded Toeplitz": correlated.Toeplitz((1.0, 0.5, 0.3)),
    "rising Toeplitz": correlated.Toeplitz((0.5, 0.75, 0.25)),
    "signed Toeplitz": correlated.Toeplitz((1.0, -0.5, 0.3, 0.1, -0.2)),
    "square root": correlated.square_root(STEPS),
    "banded inverse": correlated.banded_inverse_square_root(4),
    "one inverse band": correlated.BandedInverse((0.5,)),
    "no buffers": correlated.BufferedToeplitz((), ()),
    "buffered": correlated.BufferedToeplitz((0.9, 0.5), (0.2, 0.3)),
    "banded": banded(),
    "signed banded": banded(lowest=-1.0, seed=1),
    "tree": correlated.BinaryTree(),
}
