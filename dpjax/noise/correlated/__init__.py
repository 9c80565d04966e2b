"""Noise that is correlated over steps, so that it cancels in their sums.

Also known as DP-FTRL, or matrix factorisation: a workload A is written as B C, and what
is released at step t is the clipped sum and row t of M Z, M C = I. See `Strategy`.
"""

from dpjax.noise.correlated.banded import Banded
from dpjax.noise.correlated.buffered import BufferedToeplitz
from dpjax.noise.correlated.errors import max_error, rmse
from dpjax.noise.correlated.identity import Identity
from dpjax.noise.correlated.inverse import BandedInverse, banded_inverse_square_root
from dpjax.noise.correlated.optimization import (
    optimize_banded,
    optimize_buffered_toeplitz,
    optimize_toeplitz,
)
from dpjax.noise.correlated.participation import (
    ONCE,
    Cyclic,
    MinSeparation,
    OncePerEpoch,
    Participation,
)
from dpjax.noise.correlated.sensitivity import (
    Sensitivity,
    sensitivity,
    separate_sensitivity,
)
from dpjax.noise.correlated.strategy import Strategy, ToeplitzStrategy
from dpjax.noise.correlated.streaming import (
    CorrelatedNoiseState,
    correlated_noise,
    init_correlated_noise,
)
from dpjax.noise.correlated.toeplitz import Toeplitz, square_root
from dpjax.noise.correlated.tree import BinaryTree
from dpjax.noise.correlated.workloads import workload

__all__ = [
    "ONCE",
    "Banded",
    "BandedInverse",
    "BinaryTree",
    "BufferedToeplitz",
    "CorrelatedNoiseState",
    "Cyclic",
    "Identity",
    "MinSeparation",
    "OncePerEpoch",
    "Participation",
    "Sensitivity",
    "Strategy",
    "Toeplitz",
    "ToeplitzStrategy",
    "banded_inverse_square_root",
    "correlated_noise",
    "init_correlated_noise",
    "max_error",
    "optimize_banded",
    "optimize_buffered_toeplitz",
    "optimize_toeplitz",
    "rmse",
    "sensitivity",
    "separate_sensitivity",
    "square_root",
    "workload",
]
