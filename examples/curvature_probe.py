"""A look at the curvature while a model trains: sharpness and trace of a public batch.

Ten Lanczos steps and ten trace probes, at the cost of at most 40 gradients of the same
batch. The batch is public, so what is recorded costs no privacy.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dpjax.curvature import Public, estimates, extremes
from dpjax.curvature.hessian import hessian_operator

NUM_EXAMPLES = 32
NUM_STEPS = 10
NUM_PROBES = 10

# Directions that are the same in every run and at every step: two numbers of a series
# then differ because the curvature does. Nothing secret is drawn here.
_LANCZOS_KEY, _TRACE_KEY = 0, 1

Loss = Callable[..., jax.Array]
Metrics = Callable[[Any], dict[str, jax.Array]]


def look(
    loss: Loss, params: Any, batch: Public
) -> tuple[extremes.Extremes, estimates.Estimate]:
    """Return the ends of the spectrum of the mean loss's Hessian, and its trace."""
    matvec = hessian_operator(loss, params, batch)
    # Three vectors and no basis, which would take as long as the products.
    ends = extremes.extreme_eigenvalues(
        matvec, params, key=_LANCZOS_KEY, num_steps=NUM_STEPS
    )
    trace = estimates.trace(matvec, params, key=_TRACE_KEY, num_probes=NUM_PROBES)
    return ends, trace


def make_probe(loss: Loss, batch: Public) -> Metrics:
    """Return the look as metrics of the parameters, compiled once.

    Args:
      loss: `loss(params, *example)`, the loss of ONE example.
      batch: public examples.
    """

    @jax.jit
    def probe(params: Any) -> dict[str, jax.Array]:
        ends, trace = look(loss, params, batch)
        return {
            "sharpness": ends.largest,
            "trace": trace.value,
            "trace_stderr": trace.stderr,
        }

    return probe


def added_to(
    evaluate: Metrics,
    loss: Loss,
    examples: tuple[Any, ...],
    *,
    metrics: pathlib.Path,
    log_every: int,
    probe_every: int,
) -> Metrics:
    """Return an evaluation that takes the probe too where it is due.

    Args:
      evaluate: the evaluation, on public data.
      loss: `loss(params, *example)`, the loss of ONE example.
      examples: PUBLIC examples, arrays `(examples, ...)`; some are taken.
      metrics: see `is_due`, as for the next two.
      log_every: steps between two evaluations.
      probe_every: steps between two probes.
    """
    probe = make_probe(loss, Public(some(examples, NUM_EXAMPLES)))

    def both(params: Any) -> dict[str, jax.Array]:
        due = is_due(metrics, log_every, probe_every)
        return evaluate(params) | (probe(params) if due else {})

    return both


def some(examples: tuple[np.ndarray, ...], count: int) -> tuple[np.ndarray, ...]:
    """Return examples from all over a data set, which may be sorted by class.

    Which ones, and in which order, is fixed: it is the same in every run.

    Args:
      examples: arrays `(examples, ...)`.
      count: how many, at most.
    """
    order = np.random.default_rng(0).permutation(len(examples[0]))[:count]
    return tuple(part[order] for part in examples)


def is_due(metrics: pathlib.Path, log_every: int, probe_every: int) -> bool:
    """Tell whether the evaluation at hand is the first after a multiple of a period.

    The lines that are written already count the evaluations before, also those before
    the run was stopped and gone on with: nothing else has to be remembered.

    Args:
      metrics: metrics.jsonl of the run, one line an evaluation.
      log_every: steps between two evaluations.
      probe_every: the period, in steps.
    """
    lines = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
    before, now = lines * log_every, (lines + 1) * log_every
    return now // probe_every > before // probe_every
