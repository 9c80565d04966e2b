"""What a run on several devices, or in several processes, gives back."""

import dataclasses

from dpjax.training import processes, spreading
from dpjax.training.placement import Layout
from dpjax.training.result import FitResult
from dpjax.training.state import TrainState, averaged_params, model_params


def everywhere(result: FitResult, layout: Layout, state: TrainState) -> FitResult:
    """Return the result as each process is to have it.

    The lines are those of the first process, which has those before a resume, too.
    Arrays are whole on the first device of each process, as after a run on one device,
    unless parameters are split: then all of them stay where they are.

    Args:
      result: of this process, its arrays in the host's memory.
      layout: where arrays are.
      state: after the last step.
    """
    summary, history = processes.from_first(lambda: [result.summary, result.history])
    result = dataclasses.replace(
        result, summary=summary, history=history, public=summary["public"]
    )
    if layout.mesh is None:
        return result
    if not layout.shard_params:
        state = spreading.gathered(layout, state)
    return dataclasses.replace(
        result,
        params=model_params(state),
        average=averaged_params(state),
        opt_state=state.opt_state,
    )
