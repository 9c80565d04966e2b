"""What one private step is expected to do at the final parameters of a run."""

import functools
import math
from collections.abc import Callable
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
    private = _private_settings(run)
    if private is None:
        return None
    clip, noise, divisor, rate = private
    number = len(batch.batch[0])
    clipped = clipped_grad(loss, clip, microbatch_size=min(_CHUNK, number))
    grads = clipped(params, *batch.batch)
    fraction = diagnostics.fraction_clipped(type(batch)(grads)).value
    bias = diagnostics.clipping_bias(loss, params, batch, grads)
    # The forecast divides by the examples at hand, the run by its own batch size.
    gain = functools.partial(
        *(diagnostics.step_gain, loss, params, batch, grads),
        noise_multiplier=noise * number / divisor,
        trace=trace,
    )
    return report.Step(
        clip_norm=clip,
        noise_std=noise * clip / divisor,
        fraction_clipped=float(fraction),
        cosine=float(bias.cosine),
        norm_ratio=float(bias.norm_ratio),
        **_gains(gain, rate),
        **_double(run, noise, divisor),
    )


def _private_settings(run: report.Run) -> tuple[float, float, float, float] | None:
    """Return clip norm, noise multiplier, batch size and learning rate, if private."""
    described, settings = run.config["mechanism"], run.config["settings"]
    names = ("l2_norm_clip", "noise_multiplier", "divisor")
    values = [report.as_number(described.get(name)) for name in names]
    values.append(report.as_number(settings.get("learning_rate")))
    known = [value for value in values if value]
    if not run.config["private"] or len(known) < len(values):
        return None
    clip, noise, divisor, rate = known
    return clip, noise, divisor, rate


def _gains(
    gain: Callable[..., diagnostics.StepGain], rate: float
) -> dict[str, float | None]:
    """Return the forecasts at a learning rate and at the best one."""
    now = gain(learning_rate=rate)
    best_rate = float(now.best_learning_rate)
    found: dict[str, float | None] = {
        "loss_change": float(now.loss_change),
        "noise_cost": float(now.noise_cost),
        "best_learning_rate": best_rate,
        "best_loss_change": None,
        "noise_share": None,
    }
    if 0 < best_rate < math.inf:
        best = gain(learning_rate=best_rate)
        found["best_loss_change"] = float(best.loss_change)
        found["noise_share"] = float(-best.noise_cost / best.loss_change)
    return found


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
