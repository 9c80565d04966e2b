"""The curvature of a trained model, measured: plain numbers for a page."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import curvature_probe
import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpjax import report
from dpjax.curvature import MatVec, averaging, eigenpairs, estimates, krylov
from dpjax.curvature.density import SpectralDensity, spectral_density
from dpjax.curvature.hessian import hessian_operator
from dpjax.curvature.landscape import loss_slice
from dpjax.curvature.sources import Source
from dpjax.training.progress import Progress

NUM_PAIRS = 3
SLICE_EXAMPLES = 1000
LINE_POINTS, PLANE_POINTS = 41, 17

# Of the probes and directions; nothing secret is drawn.
_KEYS = {"density": 0, "lanczos": 1, "trace": 2, "direction": 3}
_GRID = 300
_FARTHEST = 100.0
_BANDWIDTH = 0.01


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is computed: products of the Hessian with a vector, for the most part.

    Attributes:
      num_probes: Lanczos runs for the spectrum.
      num_steps: products of each, and of the run for the outermost eigenvalues.
      num_trace_probes: products for the trace.
    """

    num_probes: int = 4
    num_steps: int = 30
    num_trace_probes: int = 10

    @property
    def num_products(self) -> int:
        """Return the number of products in all."""
        return (self.num_probes + 1) * self.num_steps + self.num_trace_probes


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """What the products with the Hessian gave."""

    density: SpectralDensity
    top: eigenpairs.Eigenpairs
    bottom: eigenpairs.Eigenpairs
    trace: estimates.Estimate


def measure_spectrum(
    loss: curvature_probe.Loss,
    params: Any,
    batches: Sequence[Source],
    effort: Effort,
    progress: Progress,
) -> Spectrum:
    """Measure the Hessian of the mean loss over all batches.

    Args:
      loss: `loss(params, *example)`, the loss of ONE example.
      params: where, a pytree.
      batches: the examples, each batch the arguments of the loss after the parameters.
      effort: how much to compute.
      progress: advanced by each product.
    """
    operator_fn = partial(hessian_operator, loss, params)
    matvec = counted(averaging.average(operator_fn, batches), progress)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    steps = min(effort.num_steps, size)
    progress.note("spectral density")
    density = spectral_density(
        matvec,
        params,
        key=_KEYS["density"],
        num_probes=effort.num_probes,
        num_steps=steps,
    )
    progress.note("outermost eigenvalues")
    reduced = krylov.lanczos(matvec, params, key=_KEYS["lanczos"], num_steps=steps)
    pairs = min(NUM_PAIRS, steps)
    progress.note("trace")
    return Spectrum(
        density,
        eigenpairs.top_ritz_pairs(reduced, pairs),
        eigenpairs.bottom_ritz_pairs(reduced, pairs),
        estimates.trace(
            matvec, params, key=_KEYS["trace"], num_probes=effort.num_trace_probes
        ),
    )


def counted(matvec: MatVec, progress: Progress) -> MatVec:
    """Return an operator that advances a progress bar by each of its products."""

    def product(vector: Any) -> Any:
        result = jax.block_until_ready(matvec(vector))
        progress.advance(None)
        return result

    return MatVec(product, (), matvec.event, traceable=False)


def study(
    run: report.Run,
    loss: curvature_probe.Loss,
    params: Any,
    batches: Sequence[Source],
    *,
    examples: str,
    effort: Effort,
    progress: Progress,
    step: Callable[[Source, float], report.Step | None],
    reach: tuple[float, float] | None = None,
) -> report.Study:
    """Measure what a page shows of one run.

    Args:
      run: the run folder.
      loss: as for `measure_spectrum`.
      params: the final parameters.
      batches: public or private examples.
      examples: which examples these are, in words.
      effort: as for `measure_spectrum`.
      progress: as for `measure_spectrum`.
      step: from some examples and the trace to what a private step would do.
      reach: how far slices go in the sharpest and in a random direction; None is
        where a quadratic would add about the loss itself.
    """
    began = time.monotonic()
    found = measure_spectrum(loss, params, batches, effort, progress)
    loss_value = mean_loss(loss, params, batches)
    trace = float(found.trace.value)
    sharpness = float(found.top.values[0])
    some = batches[: max(1, SLICE_EXAMPLES // length(batches[0]))]
    progress.note("slices")
    curvatures = (sharpness, trace / found.density.size)
    reach = reach or tuple(_reach(loss_value, c) for c in curvatures)
    slices = _slices(loss, params, some, found.top.vectors, reach)
    return report.Study(
        run=run,
        is_public=found.density.event == dp_accounting.NoOpDpEvent(),
        examples=examples,
        num_examples=sum(map(length, batches)),
        num_slice_examples=sum(map(length, some)),
        num_parameters=found.density.size,
        parameter_norm=float(optax.tree.norm(params)),
        loss=loss_value,
        top=_eigenvalues(found.top, sharpness),
        bottom=_eigenvalues(found.bottom, sharpness),
        trace=trace,
        trace_stderr=float(found.trace.stderr),
        spectrum=counts(found.density),
        **slices,
        step=step(joined(some), trace),
        method={
            "lanczos_probes": effort.num_probes,
            "lanczos_steps": effort.num_steps,
            "trace_probes": effort.num_trace_probes,
            "hessian_vector_products": effort.num_products,
            "seconds": round(time.monotonic() - began, 1),
        },
    )


def counts(density: SpectralDensity) -> report.Curve:
    """Return how many eigenvalues lie within a bandwidth, over the eigenvalues.

    An eigenvalue that stands alone is a peak of height 1, on average over the probes.
    """
    nodes = np.asarray(density.nodes, np.float64)
    extent = max(np.ptp(nodes), 0.01 * np.abs(nodes).max())
    width = _BANDWIDTH * (extent if extent > 0 else 1.0)
    if not math.isfinite(width):
        return report.Curve([], [])
    grid = density.grid(_GRID, bandwidth=width)
    smooth = density.density(grid, bandwidth=width)
    heights = np.asarray(smooth) * density.size * width * math.sqrt(2 * math.pi)
    return report.Curve(grid.tolist(), heights.tolist())


def mean_loss(
    loss: curvature_probe.Loss, params: Any, batches: Sequence[Source]
) -> float:
    """Return the mean loss over the examples of all batches."""
    mapped = jax.jit(lambda params, *batch: jax.vmap(partial(loss, params))(*batch))
    losses = [np.asarray(mapped(params, *batch.batch), np.float64) for batch in batches]
    return float(np.concatenate(losses).mean())


def length(batch: Source) -> int:
    """Return the number of examples."""
    return len(batch.batch[0])


def joined(batches: Sequence[Source]) -> Source:
    """Return batches of one kind as one."""
    parts = zip(*(batch.batch for batch in batches), strict=True)
    return type(batches[0])(tuple(map(np.concatenate, parts)))


def _eigenvalues(pairs: eigenpairs.Eigenpairs, sharpness: float) -> report.Eigenvalues:
    rounding = 10 * float(np.finfo(np.float32).eps) * abs(sharpness)
    residuals = [max(value, rounding) for value in pairs.residuals.tolist()]
    return report.Eigenvalues(pairs.values.tolist(), residuals)


def _reach(loss: float, curvature: float) -> float:
    """Return how far a quadratic of this curvature must go to add about the loss."""
    squared = 2 * max(loss, 0.5) / curvature if curvature > 0 else 1.0
    return math.sqrt(squared) if squared < _FARTHEST**2 else _FARTHEST


def _slices(
    loss: curvature_probe.Loss,
    params: Any,
    batches: Sequence[Source],
    top: Any,
    reach: tuple[float, ...],
) -> dict[str, Any]:
    sharpest = jax.tree.map(lambda leaf: leaf[0], top)
    noise = optax.tree.random_like(jax.random.key(_KEYS["direction"]), sharpest)
    size = optax.tree.norm(noise)
    directions = [sharpest, jax.tree.map(lambda leaf: leaf / size, noise)]

    def values(along: list[Any], offsets: list[jax.Array]) -> list[Any]:
        parts = [loss_slice(loss, params, b, along, offsets).value for b in batches]
        sizes = [length(batch) for batch in batches]
        return np.average(np.asarray(parts, np.float64), 0, sizes).tolist()

    lines = [jnp.linspace(-end, end, LINE_POINTS) for end in reach]
    sides = [jnp.linspace(-end, end, PLANE_POINTS) for end in reach]
    top_curve, random_curve = (
        report.Curve(line.tolist(), values([direction], [line]))
        for line, direction in zip(lines, directions, strict=True)
    )
    plane = report.Plane(
        sides[0].tolist(), sides[1].tolist(), values(directions, sides)
    )
    return {"slice_top": top_curve, "slice_random": random_curve, "plane": plane}
