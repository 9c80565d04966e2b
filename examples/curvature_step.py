"""What one private step is expected to do at the final parameters of a run."""

import math
from typing import Any

import curvature_probe

from dpjax import DPSGD, clipped_grad, diagnostics, report
from dpjax.curvature.sources import Source

_CHUNK = 50


def forecast(
    run: report.Run,
    loss: curvature_probe.Loss,
    params: Any,
    batch: Source,
    trace: float,
) -> report.Step | None:
    """Return what a step of plain SGD with the run's clipping and noise would do.

    The examples stand for a batch: their mean clipped gradient, with the noise that the
    run adds to its own, larger or smaller batches.

    Args:
      run: the run folder.
      loss: `loss(params, *example)`, the loss of ONE example.
      params: the final parameters.
      batch: examples, public or private.
      trace: of the Hessian of their mean loss.

    Returns:
      None for a run that adds no noise.
    """
    described = run.config["mechanism"]
    clip, noise, divisor = (
        report.as_number(described.get(name))
        for name in ("l2_norm_clip", "noise_multiplier", "divisor")
    )
    rate = report.as_number(run.config["settings"].get("learning_rate"))
    if not run.config["private"] or not (clip and noise and divisor and rate):
        return None
    number = len(batch.batch[0])
    grads = clipped_grad(loss, clip, microbatch_size=min(_CHUNK, number))(
        params, *batch.batch
    )
    # The forecast divides by the examples at hand, the run by its own batch size.
    scaled = noise * number / divisor
    bias = diagnostics.clipping_bias(loss, params, batch, grads)

    def gain(rate: float) -> diagnostics.StepGain:
        return diagnostics.step_gain(
            loss,
            params,
            batch,
            grads,
            noise_multiplier=scaled,
            learning_rate=rate,
            trace=trace,
        )

    now = gain(rate)
    best_rate = float(now.best_learning_rate)
    best = gain(best_rate) if 0 < best_rate < math.inf else None
    return report.Step(
        clip_norm=clip,
        noise_std=noise * clip / divisor,
        fraction_clipped=float(diagnostics.fraction_clipped(type(batch)(grads)).value),
        cosine=float(bias.cosine),
        norm_ratio=float(bias.norm_ratio),
        loss_change=float(now.loss_change),
        noise_cost=float(now.noise_cost),
        best_learning_rate=best_rate,
        best_loss_change=None if best is None else float(best.loss_change),
        noise_share=(
            None if best is None else float(-best.noise_cost / best.loss_change)
        ),
        **_double(run, noise, divisor),
    )


def _double(run: report.Run, noise: float, divisor: float) -> dict[str, Any]:
    """Return the noise of twice the batch at the same epsilon, Poisson sampled."""
    described = run.config["mechanism"]
    examples = report.as_number(described.get("num_examples"))
    steps = report.as_number(described.get("num_steps"))
    delta = report.as_number(run.config["delta"])
    none = {"double_noise_multiplier": None, "double_noise_ratio": None}
    if described.get("sampler") != "Poisson" or not (examples and steps and delta):
        return none
    if 2 * divisor > examples:
        return none
    plan = {
        "num_examples": int(examples),
        "num_steps": int(steps),
        "l2_norm_clip": 1.0,
    }
    now = DPSGD(**plan, expected_batch_size=divisor, noise_multiplier=noise)
    double = DPSGD(**plan, expected_batch_size=2 * divisor)
    found = double.calibrate(now.epsilon(delta), delta).noise_multiplier
    return {
        "double_noise_multiplier": found,
        "double_noise_ratio": found / (2 * noise),
    }
