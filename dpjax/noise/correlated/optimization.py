"""Strategies of least error, for a horizon and a participation."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from scipy import optimize, special

from dpjax import _check
from dpjax.noise.correlated import objectives, workloads
from dpjax.noise.correlated.banded import Banded
from dpjax.noise.correlated.buffered import BufferedToeplitz
from dpjax.noise.correlated.errors import rmse
from dpjax.noise.correlated.participation import ONCE, Participation
from dpjax.noise.correlated.strategy import Strategy
from dpjax.noise.correlated.toeplitz import Toeplitz, square_root

Error = Callable[..., float]
S = TypeVar("S", bound=Strategy)


def optimize_toeplitz(
    num_steps: int,
    bands: int,
    participation: Participation = ONCE,
    *,
    workload: np.ndarray | None = None,
    error: Error = rmse,
) -> Toeplitz:
    """Return a Toeplitz strategy of least error.

    Its coefficients are >= 0 and do not increase, so that its sensitivity is known
    exactly for any participation, and its inverse is stable.

    Args:
      num_steps: n; for cyclic sampling, all of the steps.
      bands: number of coefficients, at most n. One needs memory for bands - 1 rows.
      participation: at which steps one example can take part. Amplification by cyclic
        Poisson sampling needs `bands` of at most its period, and is of one
        participation: `ONCE`.
      workload: (n,), first column of A; None for prefix sums.
      error: `rmse` or `max_error`.

    Returns:
      A strategy never worse than `square_root(bands)`.

    References:
      McKenna (2024), Scaling up the banded matrix factorization mechanism for
      differentially private ML, arXiv 2405.15913; Kalinin and Lampert (2024), arXiv
      2405.13763, theorem 2.

    >>> found = optimize_toeplitz(100, 10)
    >>> rmse(found, 100) < rmse(square_root(10), 100)
    True
    """
    steps, count = _sizes(num_steps, bands)
    column = workloads.checked(workload, steps)
    of_coefficients = objectives.toeplitz_loss(steps, participation, column, error)

    def loss(drops: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = of_coefficients(_fallen(drops, steps))
        return value, np.cumsum(gradient[:count])

    start = square_root(count)
    coefficients = start.coefficients(count)
    drops = np.append(-np.diff(coefficients), coefficients[-1])
    found = _fallen(objectives.minimised(loss, drops, (0, None)), count)
    candidate = Toeplitz(tuple(found / found[0]))
    return _best([start, candidate], steps, participation, column, error)


def optimize_buffered_toeplitz(
    num_steps: int,
    num_buffers: int,
    participation: Participation = ONCE,
    *,
    workload: np.ndarray | None = None,
    error: Error = rmse,
) -> BufferedToeplitz:
    """Return a buffered Toeplitz strategy of least error.

    Its scales are above zero with a sum below one: coefficients are positive and fall,
    so that its sensitivity is known exactly for any participation. Time goes with
    num_steps times num_buffers.

    Args:
      num_steps: n.
      num_buffers: >= 1; 2 to 5 come near to all that a Toeplitz strategy can reach.
      participation: at which steps one example can take part.
      workload: (n,), first column of A; None for prefix sums.
      error: `rmse` or `max_error`.

    Returns:
      A strategy never worse than those it starts from, which fit the square root of
      prefix sums over the horizon, and over the separation.

    References:
      Dvijotham et al. (2024), arXiv 2404.16706; McMahan, Xu and Zhang (2024), arXiv
      2408.08868.

    >>> found = optimize_buffered_toeplitz(500, 3)
    >>> print(f"{rmse(found, 500) / rmse(square_root(500), 500):.3f}")
    0.982
    """
    steps = _check.integer("num_steps", num_steps, minimum=1)
    count = _check.integer("num_buffers", num_buffers, minimum=1)
    column = workloads.checked(workload, steps)
    of_coefficients = objectives.toeplitz_loss(steps, participation, column, error)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        coefficients, pull_back = _buffered(parameters, steps)
        value, gradient = of_coefficients(coefficients)
        return value, pull_back(gradient)

    candidates = []
    for memory in sorted({steps, participation.separation(steps)}):
        start = _start(count, min(memory, steps))
        found = objectives.minimised(loss, start, (-15, 15))
        candidates += [_strategy(start), _strategy(found)]
    return _best(candidates, steps, participation, column, error)


def optimize_banded(
    num_steps: int,
    bands: int,
    participation: Participation = ONCE,
    *,
    workload: np.ndarray | None = None,
) -> Banded:
    """Return a banded strategy of least root mean squared error.

    Its columns have norm one. With as many bands as steps, and one participation, that
    is the best of all strategies. Time goes with num_steps^3 an iteration, for a gain
    over `optimize_toeplitz` of 1 to 4 %: it is for some hundreds of steps.

    Args:
      num_steps: n.
      bands: at most n, and at most the separation of participations.
      participation: at which steps one example can take part.
      workload: (n,), first column of A; None for prefix sums.

    Returns:
      A strategy never worse than `optimize_toeplitz` with columns of norm one.

    Raises:
      ValueError: more bands than lie between participations.

    References:
      Choquette-Choo et al. (2023), arXiv 2306.08153, section 4 and appendix.

    >>> found = optimize_banded(16, 4)
    >>> rmse(found, 16) < rmse(optimize_toeplitz(16, 4), 16)
    True
    """
    steps, count = _sizes(num_steps, bands)
    if count > participation.separation(steps):
        apart = participation.separation(steps)
        _check.fail(f"at most {apart} bands, as far apart", "bands", count)
    column = workloads.checked(workload, steps)
    toeplitz = optimize_toeplitz(steps, count, participation, workload=column)
    below = toeplitz.coefficients(count)[1:] / toeplitz.coefficients(1)[0]
    start = np.tile(below, steps)
    loss = objectives.banded_loss(steps, count, column)
    candidates = [
        Banded(tuple(map(tuple, objectives.normalised(parameters, steps, count))))
        for parameters in (start, objectives.minimised(loss, start))
    ]
    return _best(candidates, steps, participation, column, rmse)


def _sizes(num_steps: int, bands: int) -> tuple[int, int]:
    steps = _check.integer("num_steps", num_steps, minimum=1)
    count = _check.integer("bands", bands, minimum=1)
    if count > steps:
        _check.fail(f"at most num_steps={steps}", "bands", count)
    return steps, count


def _best(
    candidates: list[S],
    steps: int,
    participation: Participation,
    column: np.ndarray,
    error: Error,
) -> S:
    """Return the candidate of least error, as it is when it is used."""
    return min(
        candidates, key=lambda c: error(c, steps, participation, workload=column)
    )


def _fallen(drops: np.ndarray, length: int) -> np.ndarray:
    """Return coefficients that fall by `drops`, the last of them to zero."""
    coefficients = np.cumsum(drops[::-1])[::-1]
    return np.append(coefficients, np.zeros(length - len(drops)))


def _buffered(
    parameters: np.ndarray, steps: int
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Return coefficients of some parameters, and what pulls a gradient back."""
    decays, scales = _decays_and_scales(parameters)
    lags = np.arange(steps - 1)
    powers = decays[:, None] ** lags
    coefficients = np.append(1.0, scales @ powers)

    def pull_back(gradient: np.ndarray) -> np.ndarray:
        of_scales = powers @ gradient[1:]
        of_decays = scales * (powers[:, :-1] @ (lags * gradient[1:])[1:])
        inner = scales * (of_scales - scales @ of_scales)
        return np.concatenate([of_decays * decays * (1 - decays), inner])

    return coefficients, pull_back


def _decays_and_scales(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return decays in (0, 1), and scales above zero whose sum is below one."""
    logits, logs = np.split(parameters, 2)
    return special.expit(logits), special.softmax(np.append(logs, 0.0))[:-1]


def _strategy(parameters: np.ndarray) -> BufferedToeplitz:
    decays, scales = _decays_and_scales(parameters)
    order = np.argsort(-decays)
    return BufferedToeplitz(tuple(decays[order]), tuple(scales[order]))


def _start(count: int, memory: int) -> np.ndarray:
    """Return parameters that fit 1 / sqrt(1 - x) over some steps."""
    leaks = np.geomspace(0.8, 0.5 / max(memory, 2), count + 1)
    decays = 1 - np.sqrt(leaks[1:] * leaks[:-1])
    steps = max(memory, count + 1)
    target = square_root(steps).coefficients(steps)[1:]
    # Each octave of lags counts as much as any other.
    weights = np.sqrt(1 / np.arange(1, steps))
    powers = decays[:, None] ** np.arange(steps - 1)
    scales = optimize.nnls((weights * powers).T, weights * target)[0]
    scales = np.maximum(scales, 1e-4)
    rest = max(1 - scales.sum(), 1e-3)
    return np.concatenate([special.logit(decays), np.log(scales / rest)])
