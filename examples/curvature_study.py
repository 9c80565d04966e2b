"""The curvature of a trained model, measured: plain numbers for a page."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import curvature_probe
import curvature_slices
import dp_accounting
import jax
import numpy as np
import optax

from dpjax import report
from dpjax.curvature import MatVec, averaging, eigenpairs, estimates, krylov
from dpjax.curvature.density import SpectralDensity, spectral_density
from dpjax.curvature.hessian import hessian_operator
from dpjax.curvature.sources import Source
from dpjax.training.progress import Progress

NUM_PAIRS = 3
SLICE_EXAMPLES = 1000

# Of the probes and directions; nothing secret is drawn.
_KEYS = {"density": 0, "lanczos": 1, "trace": 2}
_GRID = 300
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
    some = batches[: max(1, SLICE_EXAMPLES // curvature_slices.length(batches[0]))]
    progress.note("slices")
    curvatures = (float(found.top.values[0]), trace / found.density.size)
    reach = reach or tuple(curvature_slices.reach_of(loss_value, c) for c in curvatures)
    slices = curvature_slices.measure(loss, params, some, found.top.vectors, reach)
    return report.Study(
        run=run,
        examples=examples,
        num_examples=sum(map(curvature_slices.length, batches)),
        num_slice_examples=sum(map(curvature_slices.length, some)),
        parameter_norm=float(optax.tree.norm(params)),
        loss=loss_value,
        **_plain(found),
        **slices,
        step=step(joined(some), trace),
        method=_method(effort, time.monotonic() - began),
    )


def _plain(found: Spectrum) -> dict[str, Any]:
    """Return the fields of `report.Study` that are about the spectrum."""
    sharpness = float(found.top.values[0])
    return {
        "is_public": found.density.event == dp_accounting.NoOpDpEvent(),
        "num_parameters": found.density.size,
        "top": _eigenvalues(found.top, sharpness),
        "bottom": _eigenvalues(found.bottom, sharpness),
        "trace": float(found.trace.value),
        "trace_stderr": float(found.trace.stderr),
        "spectrum": counts(found.density),
    }


def _method(effort: Effort, seconds: float) -> dict[str, Any]:
    return {
        "lanczos_probes": effort.num_probes,
        "lanczos_steps": effort.num_steps,
        "trace_probes": effort.num_trace_probes,
        "hessian_vector_products": effort.num_products,
        "seconds": round(seconds, 1),
    }


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


def joined(batches: Sequence[Source]) -> Source:
    """Return batches of one kind as one."""
    parts = zip(*(batch.batch for batch in batches), strict=True)
    return type(batches[0])(tuple(map(np.concatenate, parts)))


def _eigenvalues(pairs: eigenpairs.Eigenpairs, sharpness: float) -> report.Eigenvalues:
    rounding = 10 * float(np.finfo(np.float32).eps) * abs(sharpness)
    residuals = [max(value, rounding) for value in pairs.residuals.tolist()]
    return report.Eigenvalues(pairs.values.tolist(), residuals)
