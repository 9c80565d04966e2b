"""The logarithm of the determinant of a positive definite operator."""

from collections.abc import Callable

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check
from dpjax.curvature.density import SpectralDensity, spectral_density
from dpjax.curvature.estimates import Estimate
from dpjax.types import ArrayTree, KeyLike


def log_determinant(
    matvec: Callable[[ArrayTree], ArrayTree],
    like: ArrayTree,
    *,
    key: KeyLike,
    num_probes: int = 8,
    num_steps: int = 40,
    batch_size: int | None = None,
) -> Estimate:
    """Estimate log det A in nats: the trace of log A by stochastic Lanczos quadrature.

    The operator must be positive definite, and well enough conditioned that its least
    eigenvalue is not rounding of its largest: add damping where it is not, as in
    `damped(matvec, damping)`. Arguments are those of
    `spectral_density`. The standard error is that of the probes; that of too
    few steps is not in it, and falls like exp(-4 num_steps / sqrt(condition)).

    Returns:
      An `Estimate` of two scalars. Inside `jax.jit`, an operator that is not positive
      definite gives NaN instead of an error; so does one that is not finite, anywhere.

    Raises:
      TypeError: see `lanczos`.
      ValueError: see `lanczos`; a node that is not above 10 roundings of the largest.

    References:
      Ubaru, Chen and Saad 2017, Fast estimation of tr(f(A)).

    >>> estimate = log_determinant(lambda v: jnp.e * v, jnp.ones(5), key=0)
    >>> print(estimate.value.round(4))
    5.0
    """
    density = spectral_density(
        matvec,
        like,
        key=key,
        num_probes=num_probes,
        num_steps=num_steps,
        batch_size=batch_size,
    )
    least = _least_ratio(density)
    floor = 10 * float(np.finfo(density.nodes.dtype).eps)
    if not _check.is_traced(least) and least <= floor:
        # An error has no event, so it says no number of private data.
        public = density.event in (None, dp_accounting.NoOpDpEvent())
        shown = f"{least:.3g} times" if public else "too small a part of"
        raise ValueError(
            "Expected a positive definite operator, got a smallest eigenvalue of "
            f"{shown} the largest. Add damping, or work in float64."
        )
    return density.trace_of(
        lambda nodes: jnp.where(least > floor, jnp.log(nodes), jnp.nan)
    )


def _least_ratio(density: SpectralDensity) -> jax.Array:
    """Return the least node that carries weight over the largest magnitude."""
    carrying = jnp.where(density.weights == 0, jnp.inf, density.nodes)
    peak = jnp.max(jnp.abs(density.nodes))
    return jnp.min(carrying) / jnp.where(peak == 0, jnp.ones_like(peak), peak)
