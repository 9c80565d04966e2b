"""Train with Opacus for `audits_trainers`; run by an interpreter that has Opacus.

Questions and answers are those of `accounting_worker`; arrays come and go as files.
"""

import itertools
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import accounting_worker
import numpy as np
import opacus
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Dot(nn.Module):
    """The loss <params, example> of examples of two layers: (batch, 2, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, 1, bias=False)
        self.second = nn.Linear(width, 1, bias=False)

    def forward(self, examples: torch.Tensor) -> torch.Tensor:
        """Return the losses, (batch, 1)."""
        return self.first(examples[:, 0]) + self.second(examples[:, 1])


class Private(NamedTuple):
    """What `PrivacyEngine.make_private` made, and the engine."""

    engine: opacus.PrivacyEngine
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loader: DataLoader


def make_private(
    examples: np.ndarray, plan: dict[str, Any], seed: int, poisson: bool
) -> Private:
    """Return a private trainer for the examples, (rows, 2, width)."""
    data = torch.from_numpy(examples.astype(np.float32))
    model, generator = Dot(data.shape[2]), torch.Generator().manual_seed(2 * seed)
    loader = DataLoader(
        TensorDataset(data),
        batch_size=round(plan["expected_batch_size"]),
        shuffle=True,
        generator=generator,
    )
    engine = opacus.PrivacyEngine(accountant="rdp")
    made = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        data_loader=loader,
        noise_multiplier=plan["noise_multiplier"],
        max_grad_norm=plan["l2_norm_clip"],
        poisson_sampling=poisson,
        noise_generator=torch.Generator().manual_seed(2 * seed + 1),
    )
    return Private(engine, *made)


def steps_of(private: Private) -> Iterator[np.ndarray]:
    """Yield what the parameters lose in each step, (2, width), for ever."""
    params = list(private.model.parameters())
    for (batch,) in itertools.chain.from_iterable(itertools.repeat(private.loader)):
        with torch.no_grad():
            for param in params:
                param.zero_()  # The gradients do not depend on them.
        private.optimizer.zero_grad()
        private.model(batch).mean().backward()
        private.optimizer.step()
        yield -np.concatenate([param.detach().numpy() for param in params])


def train(
    examples: str, out: str, plan: dict[str, Any], runs: int, seed: int, poisson: bool
) -> None:
    """Write the steps of runs one after the other, (runs, num_steps, 2, width)."""
    private = make_private(np.load(examples), plan, seed, poisson)
    count = runs * plan["num_steps"]
    steps = np.stack(list(itertools.islice(steps_of(private), count)))
    steps = steps.reshape(runs, plan["num_steps"], *steps.shape[1:])
    np.save(out, steps * plan["expected_batch_size"])


def epsilon(rows: int, plan: dict[str, Any], delta: float, poisson: bool) -> float:
    """Return the epsilon that the engine states after the steps of a plan."""
    private = make_private(np.zeros((rows, 2, 2)), plan, 0, poisson)
    for _ in itertools.islice(steps_of(private), plan["num_steps"]):
        pass
    return private.engine.get_epsilon(delta)


def versions() -> dict[str, str]:
    """Return the versions of what trains."""
    return {"opacus": opacus.__version__, "torch": torch.__version__}


TASKS = {"train": train, "epsilon": epsilon, "versions": versions}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    accounting_worker.serve(TASKS)
