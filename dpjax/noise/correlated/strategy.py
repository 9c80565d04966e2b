"""What every way to correlate noise offers."""

import abc
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check
from dpjax.noise.correlated import series, workloads
from dpjax.types import ArrayTree

Draw = Callable[[jax.Array], ArrayTree]
"""From the number of a row to that row of Z: independent noise, shaped like a sum."""

_LISTED = 16


@dataclasses.dataclass(frozen=True)
class Strategy(abc.ABC):
    """A matrix C, and the noise M Z with M C = I that goes with it.

    Step t releases row t of X + M Z: the clipped sum, and a mix of this step's and
    earlier rows of independent noise Z. That is M (C X + Z), as private as C X + Z is:
    what Z must cover is the sensitivity of C. M is the inverse of C where C is square.
    What is gained: the errors A M Z of sums over steps are smaller than A Z, since the
    noise of a step takes off some of that of the steps before.

    Parameters are kept as numbers that float32 holds, so that the noise of the device
    and the sensitivity on the host are of one C.
    """

    @abc.abstractmethod
    def matrix(self, num_steps: int) -> np.ndarray:
        """Return C, (rows, num_steps) float64: for tests and small numbers of steps."""

    @abc.abstractmethod
    def init_buffers(self, rows: ArrayTree, num_steps: int) -> ArrayTree:
        """Return what is remembered before step 0.

        Args:
          rows: a row of Z, or its shapes and dtypes.
          num_steps: steps to come.
        """

    @abc.abstractmethod
    def next_noise(
        self, draw: Draw, step: jax.Array, buffers: ArrayTree
    ) -> tuple[ArrayTree, ArrayTree]:
        """Return row `step` of M Z, and what is remembered after it."""

    @property
    def max_steps(self) -> int | None:
        """The most steps that C is defined for; None where there is no limit."""
        return None

    def bands(self, num_steps: int) -> int:
        """Return how many diagonals of C may be other than zero."""
        return num_steps

    def noise_matrix(self, num_steps: int) -> np.ndarray:
        """Return M, (num_steps, rows) float64, the left inverse of C that is used."""
        matrix = self.matrix(num_steps)
        return np.asarray(np.linalg.solve(matrix, np.eye(num_steps)))

    def variances(self, num_steps: int, workload: np.ndarray) -> np.ndarray:
        """Return the squared norms of the rows of A M, (num_steps,).

        `workload` is the first column of A. This takes a dense matrix, unless the
        strategy knows better.
        """
        noise = self.noise_matrix(num_steps)
        return np.sum((series.lower_triangular(workload) @ noise) ** 2, axis=1)

    def describe(self) -> dict[str, Any]:
        """Return the name and the parameters, ready for JSON; long ones as a digest."""
        fields = {
            field.name: _brief(getattr(self, field.name))
            for field in dataclasses.fields(self)
        }
        return {"strategy": type(self).__name__} | fields


class ToeplitzStrategy(Strategy):
    """A strategy whose C is a square Toeplitz matrix, and so is M."""

    @abc.abstractmethod
    def coefficients(self, num_steps: int) -> np.ndarray:
        """Return the first column of C, (num_steps,) float64."""

    def matrix(self, num_steps: int) -> np.ndarray:
        """Return C, (num_steps, num_steps) float64."""
        return series.lower_triangular(self.coefficients(num_steps))

    def noise_coefficients(self, num_steps: int) -> np.ndarray:
        """Return the first column of M, the inverse of C."""
        return series.inverse(self.coefficients(num_steps), num_steps)

    def noise_matrix(self, num_steps: int) -> np.ndarray:
        """Return M, (num_steps, num_steps) float64."""
        return series.lower_triangular(self.noise_coefficients(num_steps))

    def variances(self, num_steps: int, workload: np.ndarray) -> np.ndarray:
        """Return the squared norms of the rows of A M, from its first column."""
        noise = self.noise_coefficients(num_steps)
        return np.cumsum(series.product(workload, noise, num_steps) ** 2)


def numbers(name: str, values: Any) -> tuple[float, ...]:
    """Return numbers as a tuple of floats that float32 holds exactly."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        _check.fail("a sequence of numbers", f"{name}.shape", array.shape)
    with np.errstate(over="ignore", under="ignore"):
        held = array.astype(np.float32).astype(np.float64)
    if not np.all(np.isfinite(held)):
        _check.fail("finite numbers that float32 holds", name, values)
    return tuple(held.tolist())


def zeros(rows: ArrayTree, count: int) -> ArrayTree:
    """Return `count` rows of zeros: leaves (count, ...)."""
    return jax.tree.map(lambda r: jnp.zeros((count, *r.shape), r.dtype), rows)


def weighted(weights: jax.Array | Sequence[float], rows: ArrayTree) -> ArrayTree:
    """Return the weighted sum of the rows in each leaf, (count, ...)."""

    def total(leaf: jax.Array) -> jax.Array:
        factors = jnp.asarray(weights, jnp.finfo(leaf.dtype).dtype).astype(leaf.dtype)
        return jnp.tensordot(factors, leaf, 1, precision=jax.lax.Precision.HIGHEST)

    return jax.tree.map(total, rows)


def check_steps(strategy: Strategy, num_steps: int) -> int:
    """Return a number of steps that a strategy is defined for."""
    if not isinstance(strategy, Strategy):
        _check.fail("a strategy", "strategy", strategy, TypeError)
    try:
        hash(strategy)
    except TypeError:  # by which a compiled step is found again
        _check.fail("a strategy that can be hashed", "strategy", strategy, TypeError)
    steps = _check.integer("num_steps", num_steps, minimum=1)
    if strategy.max_steps is not None and steps > strategy.max_steps:
        _check.fail(f"at most the {strategy.max_steps} of C", "num_steps", steps)
    return steps


def error_variances(
    strategy: Strategy, num_steps: int, workload: np.ndarray | None
) -> np.ndarray:
    """Return the variances of what a workload estimates, for Z of variance one."""
    steps = check_steps(strategy, num_steps)
    return strategy.variances(steps, workloads.checked(workload, steps))


def _brief(value: Any) -> Any:
    array = np.asarray(value)
    if array.size <= _LISTED:
        return value
    digest = hashlib.sha256(array.astype("<f8").tobytes()).hexdigest()
    return {"shape": list(array.shape), "sha256": digest}
