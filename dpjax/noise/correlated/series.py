"""Power series: what a lower-triangular Toeplitz matrix is, column by column.

The product of two such matrices has the product of their series, the inverse the
inverse. All here is NumPy, float64, and keeps the first terms only.
"""

import numpy as np
from scipy import signal

_DIRECT = 64


def product(a: np.ndarray, b: np.ndarray, length: int) -> np.ndarray:
    """Return the first `length` coefficients of the product of two series.

    >>> product(np.ones(3), np.array([1.0, -1.0]), 4)
    array([ 1.,  0.,  0., -1.])
    """
    shorter, longer = sorted((a[:length], b[:length]), key=len)
    if len(shorter) <= _DIRECT:
        values = np.convolve(longer, shorter)
    else:
        values = signal.fftconvolve(longer, shorter)
    return padded(values, length)


def inverse(a: np.ndarray, length: int) -> np.ndarray:
    """Return the first `length` coefficients of 1 / a; `a[0]` is not zero.

    A short series is divided by term by term. For a long one Newton's iteration
    doubles the number of known terms, m <- m (2 - a m), with fast Fourier transforms:
    to about 1e-16 of the largest coefficients that occur.

    >>> inverse(np.array([1.0, -0.5]), 4)
    array([1.   , 0.5  , 0.25 , 0.125])
    """
    a = np.trim_zeros(np.asarray(a, np.float64)[:length], "b")
    if len(a) <= _DIRECT:
        return divided(a, length)
    found = inverse(a[:_DIRECT], _DIRECT)
    while len(found) < length:
        size = min(2 * len(found), length)
        error = -product(a, found, size)
        error[0] += 1
        found = padded(found, size) + product(found, error, size)
    return found


def divided(a: np.ndarray, length: int) -> np.ndarray:
    """Return what `inverse` does, term by term: time goes with both lengths.

    Where all but the first coefficient are negative, or zero, each term is a sum of
    positive numbers: of full relative precision, however small it is.
    """
    impulse = np.zeros(length)
    impulse[0] = 1
    return signal.lfilter([1.0], a, impulse)


def padded(a: np.ndarray, length: int) -> np.ndarray:
    """Return the first `length` coefficients, with zeros where there are none."""
    kept = np.asarray(a, np.float64)[:length]
    return np.pad(kept, (0, length - len(kept)))


def powers(base: float, length: int) -> np.ndarray:
    """Return 1, base, base^2, ...: the series 1 / (1 - base x)."""
    return np.power(float(base), np.arange(length))


def inverse_root(base: float, length: int) -> np.ndarray:
    """Return the series 1 / sqrt(1 - base x), whose terms are |binom(-1/2, i)| base^i.

    >>> inverse_root(1.0, 4)
    array([1.    , 0.5   , 0.375 , 0.3125])
    """
    i = np.arange(1, length)
    return np.cumprod(np.concatenate([[1.0], base * (2 * i - 1) / (2 * i)]))


def lower_triangular(a: np.ndarray) -> np.ndarray:
    """Return the Toeplitz matrix (n, n) whose first column is `a`, of shape (n,)."""
    lag = np.subtract.outer(np.arange(len(a)), np.arange(len(a)))
    return np.where(lag >= 0, a[np.maximum(lag, 0)], 0.0)
