"""DP-SGD of this library and of its peers, as trainers that `trainer_checks` takes.

Each composes what its package offers in the way that its documentation shows, with the
loss <params, example>, plain SGD, and the sampler of the package where there is one.
See `broken_trainers` for what goes in and comes out.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import accounting_client
import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
from broken_trainers import Array

import dpjax

try:
    import jax_privacy
    from jax_privacy import batch_selection, noise_addition
except ImportError:
    jax_privacy = None

Params = Any


class Parts(NamedTuple):
    """What a package offers, put together for one plan.

    Attributes:
        start: (key, params) -> state of the optimizer, noise included.
        step: (params, state, batch, mask) -> (updates, state).
        taken: (steps, rows, seed) -> (steps, rows) who takes part in which step.
    """

    start: Callable[[jax.Array, Params], Any]
    step: Callable[[Params, Any, Params, jax.Array], tuple[Params, Any]]
    taken: Callable[[int, int, int], Array]


def loss_fn(params: Params, example: Params) -> jax.Array:
    """Return <params, example>, whose gradient is the example."""
    return sum(jnp.vdot(params[name], example[name]) for name in params)


def by_dpjax(plan: dpjax.DPSGD) -> Parts:
    """Use a mechanism: its batches, its clipped gradients, its optimizer."""
    grads = plan.clipped_grad(loss_fn)

    def start(key: jax.Array, params: Params) -> Any:
        return plan.optimizer(optax.sgd(1.0), key).init(params)

    def step(params: Params, state: Any, batch: Params, mask: jax.Array) -> Any:
        # The key in use is the state's.
        optimizer = plan.optimizer(optax.sgd(1.0), 0)
        return optimizer.update(grads(params, batch, mask=mask), state, params)

    def taken(steps: int, rows: int, seed: int) -> Array:
        # The number of rows is a public constant of the plan: of a row that is not
        # there, the coin is thrown all the same.
        found = np.zeros((steps, plan.num_examples), bool)
        longer = dataclasses.replace(plan, num_steps=steps)
        for row, chunks in zip(found, longer.batches(seed), strict=True):
            for chunk in chunks:
                row[chunk.indices[chunk.mask]] = True
        return found[:, :rows]

    return Parts(start, step, taken)


def by_optax(plan: dpjax.DPSGD) -> Parts:
    """Use `optax.contrib.differentially_private_aggregate`: it takes whole batches."""

    def optimizer(key: Any) -> optax.GradientTransformation:
        private = optax.contrib.differentially_private_aggregate(
            plan.l2_norm_clip, plan.noise_multiplier, key=key
        )
        return optax.chain(private, optax.sgd(1.0))

    def start(key: jax.Array, params: Params) -> Any:
        return optimizer(key).init(params)

    def step(params: Params, state: Any, batch: Params, mask: jax.Array) -> Any:
        grads = jax.vmap(jax.grad(loss_fn), (None, 0))(params, batch)
        return optimizer(0).update(grads, state, params)

    return Parts(start, step, _all_rows)


def by_jax_privacy(plan: dpjax.DPSGD) -> Parts:
    """Use `clipped_grad`, `gaussian_privatizer` and `CyclicPoissonSampling`."""
    grads = jax_privacy.clipped_grad(
        loss_fn,
        l2_clip_norm=plan.l2_norm_clip,
        normalize_by=float(plan.expected_batch_size),
        keep_batch_dim=False,
    )
    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    stddev = plan.noise_multiplier * grads.sensitivity(relation)
    sgd = optax.sgd(1.0)

    def privatizer(key: Any) -> optax.GradientTransformation:
        return noise_addition.gaussian_privatizer(stddev=stddev, prng_key=key)

    def start(key: jax.Array, params: Params) -> Any:
        return privatizer(key).init(params), sgd.init(params)

    def step(params: Params, state: Any, batch: Params, mask: jax.Array) -> Any:
        mean = grads(params, batch, is_padding_example=~mask)
        noised, private = privatizer(0).update(mean, state[0])
        updates, plain = sgd.update(noised, state[1])
        return updates, (private, plain)

    def taken(steps: int, rows: int, seed: int) -> Array:
        sampler = batch_selection.CyclicPoissonSampling(
            sampling_prob=plan.sampling_prob,
            iterations=steps,
            partition_type=batch_selection.PartitionType.INDEPENDENT,
        )
        found = np.zeros((steps, rows), bool)
        for row, indices in zip(found, sampler.batch_iterator(rows, seed), strict=True):
            row[indices] = True
        return found

    return Parts(start, step, taken)


PARTS: dict[str, Callable[[dpjax.DPSGD], Parts]] = {
    "dpjax": by_dpjax,
    "optax": by_optax,
    "jax_privacy": by_jax_privacy,
}


TAKE_BATCHES = ("optax",)
"""Those that have no sampler: they take the batches that they are given."""


@dataclasses.dataclass(frozen=True)
class JaxTrainer:
    """A trainer out of the parts of a package, all of whose runs are one program."""

    package: str

    def __call__(
        self, plan: dpjax.DPSGD, examples: Array, runs: int, seed: int
    ) -> Array:
        """Return what the runs released; see `broken_trainers`."""
        parts = PARTS[self.package](plan)
        # Steps draw their batches independently: those of all runs come in one go.
        draw = parts.taken if plan.sampling_prob < 1 else _all_rows
        taken = draw(runs * plan.num_steps, len(examples), seed)
        masks = taken.reshape(runs, plan.num_steps, len(examples))
        keys = jax.random.split(jax.random.key(seed), runs)
        data = {"first": examples[:, 0], "second": examples[:, 1]}
        data = {name: np.asarray(rows, np.float32) for name, rows in data.items()}
        found = _program(self.package, plan)(keys, masks, data)
        lost = np.stack([found["first"], found["second"]], axis=2)
        return -lost * float(plan.expected_batch_size)


@functools.lru_cache(maxsize=32)
def _program(package: str, plan: dpjax.DPSGD) -> Callable[..., Params]:
    """Return the compiled (keys, masks, data) -> updates of all steps of all runs."""
    parts = PARTS[package](plan)

    def run(key: jax.Array, masks: jax.Array, data: Params) -> Params:
        params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:]), data)

        def step(carry: Any, mask: jax.Array) -> Any:
            params, state = carry
            updates, state = parts.step(params, state, data, mask)
            return (optax.apply_updates(params, updates), state), updates

        carry = params, parts.start(key, params)
        return jax.lax.scan(step, carry, masks)[1]

    return jax.jit(jax.vmap(run, (0, 0, None)))


@dataclasses.dataclass(frozen=True, eq=False)
class OpacusTrainer:
    """A trainer in another process, which has Opacus; see `opacus_audits`."""

    client: accounting_client.Client
    folder: pathlib.Path
    poisson: bool = True

    def __call__(
        self, plan: dpjax.DPSGD, examples: Array, runs: int, seed: int
    ) -> Array:
        """Return what the runs released; see `broken_trainers`.

        Raises:
            RuntimeError: It did not.
        """
        given, made = self.folder / "examples.npy", self.folder / "steps.npy"
        np.save(given, examples)
        self._ask(
            "train",
            plan,
            examples=str(given),
            out=str(made),
            runs=runs,
            seed=seed,
        )
        return np.load(made)

    def epsilon(self, plan: dpjax.DPSGD, delta: float) -> float:
        """Return the epsilon that Opacus states after the steps of a plan."""
        return self._ask("epsilon", plan, rows=plan.num_examples, delta=delta)

    def versions(self) -> dict[str, str]:
        """Return the versions of what trains."""
        return self.client.ask("versions")["value"]

    def _ask(self, task: str, plan: dpjax.DPSGD, **options: Any) -> Any:
        fields = "num_steps", "expected_batch_size", "noise_multiplier", "l2_norm_clip"
        numbers = {name: getattr(plan, name) for name in fields}
        answer = self.client.ask(task, plan=numbers, poisson=self.poisson, **options)
        if "value" not in answer:
            raise RuntimeError(f"Expected an answer of Opacus, got {answer}.")
        return answer["value"]


def missing(package: str) -> str | None:
    """Return why a trainer cannot run, or None."""
    if package == "jax_privacy" and jax_privacy is None:
        return "jax_privacy is not installed (pip install -e '.[bench]')"
    return None


def _all_rows(steps: int, rows: int, seed: int) -> Array:
    return np.ones((steps, rows), bool)
