"""Time Opacus against PyTorch's own plain gradient; run by its own interpreter.

One JSON request comes as the argument, one JSON answer goes to the standard output:

    request: {"model", "sizes", "rounds", "turn", "max_bytes"}
    answer:  {"versions": {...}, "contestants": {name: {...} or {"dropped": why}}}

A call ends with the clipped sum, before the noise.
"""

import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import opacus
import opacus_networks
import timing
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn

CLIP_NORM = 1.0


class ExampleLoss(nn.Module):
    """Cross-entropy, a mean over positions; `reduction` is over the batch alone."""

    reduction = "mean"

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return one loss, or one an example where `reduction` is "none"."""
        losses = nn.functional.cross_entropy(
            logits.movedim(-1, 1), labels, reduction="none"
        )
        losses = losses.reshape(len(losses), -1).mean(1)
        return losses.mean() if self.reduction == "mean" else losses


def plain(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """Return a call that computes the gradient of the mean loss."""
    criterion = ExampleLoss()

    def call() -> None:
        model.zero_grad()
        criterion(model(x), y).backward()

    return call


def hooks(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """Return a call of Opacus's default: per-example gradients, kept by hooks."""
    wrapped, criterion = opacus.GradSampleModule(model), ExampleLoss()
    optimizer = DPOptimizer(_sgd(wrapped), **_settings(x))

    def call() -> None:
        optimizer.zero_grad()
        criterion(wrapped(x), y).backward()
        optimizer.clip_and_accumulate()

    return call


def ghost(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """Return a call of Opacus's ghost clipping: two backward passes."""
    wrapped = GradSampleModuleFastGradientClipping(model, max_grad_norm=CLIP_NORM)
    optimizer = DPOptimizerFastGradientClipping(_sgd(wrapped), **_settings(x))
    criterion = DPLossFastGradientClipping(wrapped, optimizer, ExampleLoss())

    def call() -> None:
        optimizer.zero_grad()
        criterion(wrapped(x), y).backward()
        optimizer.accumulate()

    return call


CONTESTANTS = {"plain": plain, "opacus_hooks": hooks, "opacus_ghost": ghost}


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Answer a request."""
    answer: dict[str, Any] = {"dropped": "no PyTorch version of this model"}
    if request["model"] in opacus_networks.MODELS:
        answer = _compare(request)
    else:
        answer = dict.fromkeys(CONTESTANTS, answer)
    versions = {"torch": torch.__version__, "opacus": opacus.__version__}
    return {"versions": versions, "contestants": answer}


def _compare(request: dict[str, Any]) -> dict[str, Any]:
    calls, entries = {}, {}
    for name in CONTESTANTS:
        found = _prepare(name, request)
        if isinstance(found, str):
            entries[name] = {"dropped": found}
        else:
            calls[name] = found
    times = timing.side_by_side(calls, request["rounds"], turn=request["turn"])
    for name, values in times.items():
        entries[name] = {
            "round_ms": [1e3 * seconds for seconds in values],
            "ms": 1e3 * statistics.median(values),
            "ratio": timing.median_ratio(values, times["plain"]),
        }
    return entries


def _prepare(name: str, request: dict[str, Any]) -> Callable[[], None] | str:
    """Return a call that has been run once, or why there is none."""
    torch.manual_seed(0)
    model, x = opacus_networks.MODELS[request["model"]](**request["sizes"])
    params = sum(param.numel() for param in model.parameters())
    needed = 4 * params * len(x)
    if name == "opacus_hooks" and needed > request["max_bytes"]:
        return f"per-example gradients would take {needed / 1e9:.1f} GB"
    positions = x.shape if request["model"] == "gpt" else (len(x),)
    call = CONTESTANTS[name](model, x, torch.randint(10, positions))
    try:
        call()
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        if name == "plain":
            raise
        return f"Opacus raised {type(error).__name__}: {str(error).splitlines()[0]}"
    return call


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def _settings(x: torch.Tensor) -> dict[str, Any]:
    return {
        "noise_multiplier": 0.0,
        "max_grad_norm": CLIP_NORM,
        "expected_batch_size": len(x),
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
