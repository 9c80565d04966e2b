"""What a line of metrics says."""

from typing import Any

from dpjax import optimizers
from dpjax.training import budget, metrics, spreading
from dpjax.training.plan import Plan
from dpjax.training.state import TrainState, averaged_params, model_params


def make_line(
    plan: Plan, number: int, state: TrainState, raw: list[metrics.ChunkRecord]
) -> dict[str, Any]:
    """Return the line of metrics of a step, as a JSON object.

    Args:
      plan: the run.
      number: of the step, from 1.
      state: after the step.
      raw: of each of its chunks.
    """
    request = plan.request
    every = request.logging.evaluation_steps
    due = budget.is_due(number, every, plan.last_step)
    clip_norm = getattr(request.mechanism, "common_clip_norm", None)
    return {
        "step": number,
        "epsilon": plan.epsilon[number],
        "public": _released(state) | (_evaluate(plan, state) if due else {}),
        "not_private": metrics.not_private(raw, clip_norm, int(state.non_finite)),
    }


def _released(state: TrainState) -> dict[str, float]:
    """Return what the steps released beside the parameters."""
    clip_norm = optimizers.adaptive_clip_norm(state.opt_state)
    return {} if clip_norm is None else {"l2_norm_clip": float(clip_norm)}


def _evaluate(plan: Plan, state: TrainState) -> dict[str, float]:
    if plan.request.evaluate is None:
        return {}
    state = state._replace(params=model_params(state), opt_state=None)
    state = spreading.gathered(plan.layout, state)
    average = averaged_params(state)
    values = plan.request.evaluate(state.params if average is None else average)
    return {name: float(value) for name, value in values.items()}
