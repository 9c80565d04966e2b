"""What a run gives."""

import dataclasses
import pathlib
from typing import Any

from dpjax import accounting
from dpjax.training import fingerprint, identity
from dpjax.training.journal import Journal
from dpjax.training.state import TrainState, averaged_params, model_params
from dpjax.types import ArrayTree, Params


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What a run gives.

    Attributes:
      params: the parameters after the last step.
      average: their exponential moving average, or None without `ema_decay`.
      opt_state: state of the private optimizer, the key of the noise in it, and of
        `DPIndividualSGD`, what is left of budgets, raw: not to be released.
      steps: steps done.
      status: "finished", or "stopped_at_budget".
      epsilon: what was spent, by accountant ("exact", "pld", "rdp"); each is an upper
        bound. Empty without a delta.
      delta: the delta of `epsilon`.
      ledger: what was spent, with `max_epsilon` as its budget: for what else is to be
        released of the same data.
      public: the last evaluation.
      history: the lines of metrics.jsonl. What stands under "not_private" is raw.
      summary: the object of summary.json. What stands under "not_private" is raw.
      run_dir: the run folder, or None.
    """

    params: Params
    average: Params | None
    opt_state: ArrayTree = dataclasses.field(repr=False)
    steps: int
    status: str
    epsilon: dict[str, float]
    delta: float | None
    ledger: accounting.PrivacyLedger
    public: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    run_dir: pathlib.Path | None


def make_result(state: TrainState, records: Journal) -> FitResult:
    """Write the summary of a run that has ended; return what it gives."""
    plan = records.plan
    request, last = plan.request, records.last
    finished = plan.last_step == request.mechanism.num_steps
    epsilon = plan.epsilon.get(plan.last_step, {})
    average = averaged_params(state)
    params = model_params(state)
    released = params if average is None else (params, average)
    digests = {
        "params": fingerprint.tree_digest(released),
        "metrics": records.metrics_digest(),
        "ledger": plan.ledger.digest,
    }
    summary = records.finish(
        {
            "status": "finished" if finished else "stopped_at_budget",
            "private": request.is_private,
            "steps": plan.last_step,
            "epsilon": epsilon,
            "delta": request.delta,
            "privacy_filter": identity.shared_budget(request),
            "not_a_guarantee": plan.quoted,
            "public": last["public"] if last else {},
            "not_private": {"non_finite_examples": int(state.non_finite)},
            "elapsed_seconds": records.elapsed_seconds,
            "sha256": digests,
        },
        plan.ledger,
    )
    return FitResult(
        params=params,
        average=average,
        opt_state=state.opt_state,
        steps=plan.last_step,
        status=summary["status"],
        epsilon=epsilon,
        delta=request.delta,
        ledger=plan.ledger,
        public=summary["public"],
        history=records.history,
        summary=summary,
        run_dir=request.run_dir,
    )
