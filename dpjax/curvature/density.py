"""The spectrum as a distribution: stochastic Lanczos quadrature."""

import dataclasses
import functools
from collections.abc import Callable

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check
from dpjax.curvature import krylov, loops, tridiagonal, vectors
from dpjax.curvature.estimates import Estimate, sample_mean
from dpjax.curvature.matvec import as_matvec
from dpjax.types import ArrayTree, KeyLike


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["nodes", "weights"],
    meta_fields=["size", "event"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class SpectralDensity:
    """A Gauss quadrature of the spectrum for each probe.

    The distribution of the n eigenvalues, each with weight 1 / n, is the expectation
    over the probes of point masses `weights` at `nodes`.

    Attributes:
      nodes: shape `(probes, steps)`, ascending.
      weights: `(probes, steps)`, >= 0, with sum 1 for each probe.
      size: n, the number of eigenvalues.
      event: what the operator cost; see `MatVec`.
    """

    nodes: jax.Array
    weights: jax.Array
    size: int
    event: dp_accounting.DpEvent | None

    def grid(
        self, num_points: int = 1000, *, bandwidth: float | jax.Array | None = None
    ) -> jax.Array:
        """Return points from below the least to above the largest node, evenly spaced.

        Args:
          num_points: how many, >= 2.
          bandwidth: the grid reaches five of them beyond the nodes; as in `density`.

        Raises:
          ValueError: fewer than two points, or a bandwidth that is not positive.
        """
        _check.integer("num_points", num_points, minimum=2)
        margin = 5 * self._width(bandwidth)
        low, high = jnp.min(self.nodes) - margin, jnp.max(self.nodes) + margin
        return jnp.linspace(low, high, num_points)

    def density(
        self, grid: jax.Array, *, bandwidth: float | jax.Array | None = None
    ) -> jax.Array:
        """Return the density of the eigenvalues, smoothed by a Gaussian; no products.

        Args:
          grid: where, any shape.
          bandwidth: standard deviation of the Gaussian, > 0, in units of the
            eigenvalues. None is a hundredth of the range of the nodes, or of a
            hundredth of their magnitude where that is more.

        Returns:
          Values >= 0, shaped like `grid`, with integral 1 over the line.

        Raises:
          ValueError: a bandwidth that is not positive.
        """
        width = self._width(bandwidth)
        at = jnp.asarray(grid)[..., None, None]
        bells = jax.scipy.stats.norm.pdf((at - self.nodes) / width) / width
        return jnp.sum(self.weights * bells, (-2, -1)) / self.nodes.shape[0]

    def trace_of(self, function: Callable[[jax.Array], jax.Array]) -> Estimate:
        """Estimate the trace of `function(A)`: n times the mean of the quadratures.

        Args:
          function: from eigenvalues to numbers, entry by entry.
        """
        # Beyond a breakdown weights are zero, where the function may be infinite.
        terms = self.weights * function(self.nodes)
        sums = jnp.sum(jnp.where(self.weights == 0, 0, terms), -1)
        return sample_mean(self.size * sums, self.event)

    def _width(self, bandwidth: float | jax.Array | None) -> float | jax.Array:
        if bandwidth is None:
            spread, peak = jnp.ptp(self.nodes), jnp.max(jnp.abs(self.nodes))
            extent = jnp.maximum(spread, 0.01 * peak)
            return 0.01 * jnp.where(extent == 0, jnp.ones_like(extent), extent)
        if not _check.is_traced(bandwidth):
            _check.positive("bandwidth", bandwidth)
        return bandwidth


def spectral_density(
    matvec: Callable[[ArrayTree], ArrayTree],
    like: ArrayTree,
    *,
    key: KeyLike,
    num_probes: int = 8,
    num_steps: int = 40,
    batch_size: int | None = None,
) -> SpectralDensity:
    """Estimate the distribution of the eigenvalues from `num_probes` Lanczos runs.

    Each run starts from a probe of fair signs; its eigenvalues are nodes, the squared
    first components of its eigenvectors are weights. Polynomials up to degree
    `2 num_steps - 1` are integrated without error but that of the probe.

    Args:
      matvec: a symmetric linear operator, a `MatVec` or any callable.
      like: pytree of n real floating-point values in all.
      key: of the probes and of the directions after a breakdown.
      num_probes: how many runs, >= 1.
      num_steps: products a run, >= 1; at most n of them are used.
      batch_size: runs at the same time; None is one. The memory of a run is that of
        `lanczos`: `num_steps` vectors.

    Returns:
      A `SpectralDensity`; NaNs when a product was not finite.

    Raises:
      TypeError: see `lanczos`.
      ValueError: see `lanczos`; numbers below 1.

    References:
      Golub and Meurant 2010. Ghorbani, Krishnan and Xiao 2019, arXiv 1901.10159.

    >>> density = spectral_density(lambda v: 2 * v, jnp.ones(5), key=0, num_steps=3)
    >>> print(density.trace_of(jnp.log2).value)
    5.0
    """
    space = vectors.space_of(like)
    probes = _check.integer("num_probes", num_probes, minimum=1)
    steps = min(_check.integer("num_steps", num_steps, minimum=1), space.size)
    process = _Quadrature(space, steps)
    probe_keys = jax.random.split(vectors.probe_key(key, like), probes)
    diagonals, off_diagonals = loops.run(
        process, matvec, probe_keys, batch_size=batch_size
    )
    nodes, rotation = tridiagonal.eigh(diagonals, off_diagonals)
    first = rotation[:, 0, :]
    # What a probe does not reach has a component of zero, up to rounding.
    rounding = np.finfo(space.dtype).eps
    weights = jnp.where(jnp.abs(first) <= rounding, 0, first**2)
    return SpectralDensity(nodes, weights, space.size, as_matvec(matvec).event)


@dataclasses.dataclass(frozen=True)
class _Quadrature:
    """A Lanczos run from fair signs, of which T is kept and the basis is not."""

    space: vectors.Space
    num_products: int

    @property
    def _lanczos(self) -> krylov.Lanczos:
        return krylov.Lanczos(self.space, self.num_products)

    def init(self, argument: jax.Array) -> krylov.State:
        start, rest = jax.random.split(argument)
        return self._lanczos.init((rest, vectors.signs(self.space, start)))

    def ask(self, state: krylov.State) -> ArrayTree:
        return self._lanczos.ask(state)

    def tell(self, state: krylov.State, product: ArrayTree) -> krylov.State:
        return self._lanczos.tell(state, product)

    def result(self, state: krylov.State) -> tuple[jax.Array, jax.Array]:
        return state.diagonal, state.off_diagonal[:-1]
