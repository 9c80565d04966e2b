"""Ask Opacus for `test_defects`; run by an interpreter that has Opacus.

Questions and answers are those of `accounting_worker`. The loss of an
example is <parameters, example>: gradients are the examples.
"""

import math
import pathlib
import tempfile
import warnings

import accounting_worker
import numpy as np
import opacus
import torch
from opacus.accountants import RDPAccountant
from opacus.utils import uniform_sampler
from torch import distributed, nn
from torch.utils.data import DataLoader, TensorDataset

ADAPTIVE = {
    "clipping": "adaptive",
    "target_unclipped_quantile": 0.5,
    "clipbound_learning_rate": 0.2,
    "max_clipbound": 100.0,
    "min_clipbound": 0.01,
}


class Private:
    """A linear model, its private optimizer and loader."""

    def __init__(self, examples, batch=4, noise=1.0, seed=0, **options):
        data = torch.tensor(np.asarray(examples), dtype=torch.float32)
        self.model = nn.Linear(data.shape[1], 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self.engine = opacus.PrivacyEngine(accountant="rdp")
        loader = DataLoader(
            TensorDataset(data),
            batch_size=batch,
            shuffle=True,
            generator=torch.Generator().manual_seed(seed),
        )
        made = self.engine.make_private(
            module=self.model,
            optimizer=torch.optim.SGD(self.model.parameters(), lr=1.0),
            data_loader=loader,
            noise_multiplier=noise,
            max_grad_norm=1.0,
            noise_generator=torch.Generator().manual_seed(seed + 1),
            **options,
        )
        self.module, self.optimizer, self.loader = made

    @property
    def values(self):
        return self.model.weight.detach().numpy().ravel().copy()

    def step(self, rows):
        """Return what one step takes off the parameters: (values,)."""
        before = self.values
        self.optimizer.zero_grad()
        batch = torch.tensor(np.asarray(rows), dtype=torch.float32)
        self.module(batch).mean().backward()
        self.optimizer.step()
        return before - self.values


def release(rows):
    """Return a step without noise: (values,)."""
    return Private(np.zeros((8, 2)), noise=0.0).step(rows).tolist()


def stddev(rows):
    """Return how wide the noise of a step is, for a data set of so many rows."""
    private = Private(np.zeros((rows, 20_000)))
    return float(private.step(np.zeros((4, 20_000))).std())


def adaptive(rows, draws, unclipped_num_std):
    """Return sums and shares of unclipped examples, (draws, 3), and what is recorded.

    Each step starts at a clip norm of 1.
    """
    options = {**ADAPTIVE, "unclipped_num_std": unclipped_num_std}
    private, found = Private(np.zeros((8, 2)), **options), []
    for _ in range(draws):
        private.optimizer.max_grad_norm = torch.tensor(1.0)
        moved = private.step(rows) * private.optimizer.expected_batch_size
        share = 0.5 - math.log(float(private.optimizer.max_grad_norm)) / 0.2
        found.append([*moved.tolist(), share])
    return {"released": found, "recorded": private.engine.accountant.history[0][0]}


def epochs(count, rows, poisson, delta):
    """Return how often each example took part in each epoch, and the stated epsilon."""
    private, counts = Private(np.eye(rows), poisson_sampling=poisson), []
    for _ in range(count):
        counts.append(np.zeros(rows))
        for (batch,) in private.loader:
            counts[-1] += batch.numpy().sum(axis=0)
            private.step(batch.numpy())
    return {
        "counts": np.array(counts).tolist(),
        "epsilon": private.engine.get_epsilon(delta),
    }


def accumulate():
    """Add two Poisson batches up before a step."""
    private = Private(np.eye(8))
    for (batch,) in private.loader:
        private.module(batch).sum().backward()
    private.optimizer.step()


def epsilon(noise_multiplier, sampling_prob, num_steps, delta):
    """Return the epsilon of the Renyi accountant."""
    accountant = RDPAccountant()
    accountant.history = [(noise_multiplier, sampling_prob, num_steps)]
    return accountant.get_epsilon(delta)


def steps_of_epoch(batches):
    """Return the steps of an epoch at a rate of one in so many."""
    return len(
        uniform_sampler.UniformWithReplacementSampler(
            num_samples=batches, sample_rate=1 / batches
        )
    )


def distributed_batches(steps):
    """Return how many batches the sampler of one of one processes yields."""
    with tempfile.TemporaryDirectory() as folder:
        place = f"file://{folder}/store"
        distributed.init_process_group("gloo", init_method=place, rank=0, world_size=1)
        sampler = uniform_sampler.DistributedUniformWithReplacementSampler(
            total_size=10,
            sample_rate=0.05,
            steps=steps,
            generator=torch.Generator().manual_seed(0),
        )
        count = len(list(sampler))
        distributed.destroy_process_group()
    return count


def secure():
    """Start in secure mode."""
    opacus.PrivacyEngine(secure_mode=True)


class Twice(nn.Module):
    """One layer, used twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3, bias=False)

    def forward(self, rows):
        return self.layer(torch.tanh(self.layer(rows)))


def shared_layer():
    """Take a step of ghost clipping with one layer that is used twice."""
    model = Twice()
    module, optimizer, criterion, _ = opacus.PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        criterion=nn.MSELoss(),
        data_loader=DataLoader(TensorDataset(torch.ones(8, 3)), batch_size=4),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
        grad_sample_mode="ghost",
    )
    criterion(module(torch.ones(1, 3)), torch.zeros(1, 3)).backward()
    optimizer.step()


def misspelt():
    """Ask for batches that are not sampled, with a letter missing."""
    Private(np.zeros((8, 2)), poisson_samplng=False)


def batch_norm():
    """Make a model private that normalises over the batch."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    opacus.PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        data_loader=DataLoader(TensorDataset(torch.ones(8, 3)), batch_size=4),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
    )


def run(stop):
    """Return the parameters after each of 4 steps, begun anew after `stop` of them."""
    examples = np.random.default_rng(0).normal(size=(8, 3))
    private, found = Private(examples, poisson_sampling=False), []

    def steps(count):
        batches = [b.numpy() for _ in range(4) for (b,) in private.loader]
        for batch in batches[:count]:
            private.step(batch)
            found.append(private.values.tolist())

    if stop is None:
        steps(4)
        return found
    steps(stop)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "checkpoint"
        kept = {"module": private.module, "optimizer": private.optimizer}
        private.engine.save_checkpoint(path=path, **kept)
        private = Private(examples, poisson_sampling=False)
        kept = {"module": private.module, "optimizer": private.optimizer}
        private.engine.load_checkpoint(path=path, **kept)
    steps(4 - stop)
    return found


def make(noise_multiplier):
    """Make a private optimizer; return its noise multiplier as a word."""
    private = Private(np.zeros((8, 2)), noise=noise_multiplier)
    return str(private.optimizer.noise_multiplier)


def versions():
    """Return the version that is asked."""
    return {"opacus": opacus.__version__}


TASKS = {
    each.__name__: each
    for each in (
        accumulate,
        adaptive,
        batch_norm,
        distributed_batches,
        epochs,
        epsilon,
        make,
        misspelt,
        release,
        run,
        secure,
        shared_layer,
        stddev,
        steps_of_epoch,
        versions,
    )
}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    accounting_worker.serve(TASKS)
