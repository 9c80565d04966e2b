"""What stands in a checkpoint beside the arrays: whose it is, and what it has cost.

    config, data, initial_parameters  the identity of the run, as in config.json and
                                      private.json
    sampler                           its position, which is the step: a batch is a pure
                                      function of key and step
    ledger                            what the steps so far have spent
    metrics                           how far metrics.jsonl went, and its hash
    elapsed_seconds                   of training

Parameters, optimizer, step and key words are arrays, and stand among the leaves. With
them the next step is what it would have been: batch and noise are pure functions of key
and step. So the steps that a killed run did after its last checkpoint are done again
with the same noise: they release the same numbers, bit for bit, and cost nothing more.
A checkpoint of another run would break that, and is refused; and so is, where metrics
were written after the checkpoint, another version of a package, which may draw other
noise from the same key. On other devices noise is the same, and sums round otherwise.
"""

import json
from typing import Any

from dpjax.training import folder
from dpjax.training.metrics import Mark
from dpjax.training.plan import Plan


def belonging(plan: Plan, step: int, initial_parameters: Any) -> dict[str, Any]:
    """Return the part of a record that says whose it is, and what was spent.

    Args:
      plan: the run.
      step: number of steps done.
      initial_parameters: the hash of those that the run was begun with.
    """
    ledger = plan.request.mechanism.ledger(step=step)
    return {
        "config": plan.config,
        "data": plan.private["data"],
        "initial_parameters": initial_parameters,
        "sampler": {"position": step},
        "ledger": json.loads(ledger.to_json()),
    }


def progress(mark: Mark, elapsed_seconds: float) -> dict[str, Any]:
    """Return the other part: how far the run has come."""
    return {"metrics": mark._asdict(), "elapsed_seconds": elapsed_seconds}


def differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Name what tells the run of a checkpoint from the run at hand.

    Args:
      saved: the record of the checkpoint.
      now: what `belonging` gives for the run at hand and the checkpoint's step.
    """
    missing = {*now, "metrics", "elapsed_seconds"} - saved.keys()
    if missing:
        return [f"its record is without {', '.join(sorted(missing))}"]
    found, _ = folder.compare(saved["config"], now["config"])
    words = {
        "data": "the data are not the same",
        "initial_parameters": "the initial parameters are not the same",
        "sampler": "the sampler's position is not the step",
        "ledger": "what was spent is not the same",
    }
    return found + [text for name, text in words.items() if saved[name] != now[name]]
