"""The runs of a private search: what one is, and what all of them cost."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import data
import jax
import models
import objectives
import search_flags
from absl import flags

from dpjax import accounting, training
from dpjax.mechanism import PrivateBatches
from dpjax.types import Params


class Price(NamedTuple):
    """What the search costs.

    Attributes:
        one_run: The mechanism of a run, whatever the candidate.
        ledger: With the whole search in it.
        epsilon: Of the ledger, at delta.
        delta: As the flags say.
    """

    one_run: PrivateBatches
    ledger: accounting.PrivacyLedger
    epsilon: accounting.Epsilon
    delta: float


class Trained(NamedTuple):
    """What a run gives.

    Attributes:
        params: Parameters of the model; their average with --ema_decay.
        test_accuracy: Theirs on the half of the test set that chooses nothing.
    """

    params: Params
    test_accuracy: float


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs of a search.

    Attributes:
        flag_values: Those of train.py, complete and checked.
        dataset: What the model sees.
        train: train.py's `train`.
    """

    flag_values: flags.FlagValues
    dataset: data.Dataset
    train: Callable[..., Any]

    def price(self) -> Price:
        """Return what a search costs, its noise solved for if need be.

        Raises:
            FlagError: If candidates differ in what they cost, or one cannot be trained.
            AccountingError: If no noise reaches the target, or a run has no Renyi
                account.
        """
        options = training.read_flags(self.flag_values)
        runs = search_flags.repetitions(self.flag_values)
        candidates = search_flags.candidates(self.flag_values)
        noise, delta = options.noise_multiplier, options.delta
        if noise is None:
            first = self._mechanism(candidates[0], 1.0)
            noise = accounting.calibrate_event(
                lambda z: runs.event(_with_noise(first, z).event()),
                target_epsilon=options.target_epsilon,
                delta=delta,
                relation=first.neighboring_relation,
            )
        found = [self._mechanism(candidate, noise) for candidate in candidates]
        costs = {repr((one.event(), one.neighboring_relation)) for one in found}
        if len(costs) > 1:
            raise training.FlagError(
                "Expected a search among runs that cost the same, got "
                f"--search={self.flag_values['search'].value!r}."
            )
        ledger = accounting.PrivacyLedger(relation=found[0].neighboring_relation)
        ledger.spend(runs.event(found[0].event()), "search")
        return Price(found[0], ledger, ledger.epsilon(delta), delta)

    def run(
        self, noise: float, candidate: search_flags.Candidate, key: jax.Array
    ) -> tuple[float, Trained]:
        """Train with a candidate; return its score and what was trained."""
        own = self._flags(candidate, noise)
        kept = []

        def evaluate(params: Params) -> dict[str, Any]:
            chosen_by, other = (one(params)["test_accuracy"] for one in self._measures)
            kept.append(Trained(jax.device_get(params), float(other)))
            return {"score": chosen_by}

        result = self.train(
            own, dataset=self.dataset, evaluate=evaluate, key=key, delta=None
        )
        return result.public["score"], kept[-1]

    def halves(self) -> list[data.Dataset]:
        """Return the data with every other test example: which choose, which do not."""
        x, y = self.dataset.test_x, self.dataset.test_y
        return [
            dataclasses.replace(self.dataset, test_x=x[i::2], test_y=y[i::2])
            for i in (0, 1)
        ]

    @functools.cached_property
    def _measures(self) -> list[Callable[[Params], dict[str, jax.Array]]]:
        """Return what measures parameters on either half."""
        name = self.flag_values["model"].value
        apply = models.make(name, self.dataset.num_classes).apply
        return [objectives.make_evaluation(apply, half) for half in self.halves()]

    def _mechanism(
        self, candidate: search_flags.Candidate, noise: float
    ) -> PrivateBatches:
        """Return the mechanism of a run, all else of which is built to be checked."""

        def mechanism_of(mechanism: PrivateBatches, *_: Any, **__: Any) -> Any:
            return mechanism

        own = self._flags(candidate, noise)
        return self.train(own, dataset=self.dataset, fit=mechanism_of, key=0)

    def _flags(
        self, candidate: search_flags.Candidate, noise: float
    ) -> flags.FlagValues:
        """Return the flags of a run, which is quiet and leaves nothing."""
        own = {
            "features": "none",  # of a data set that has them already
            "target_epsilon": None,
            "noise_multiplier": noise,
            "seed": None,
            "run_dir": None,
            "log_every": sys.maxsize,
            "progress": False,
        }
        return search_flags.with_values(self.flag_values, own | candidate)


def _with_noise(mechanism: PrivateBatches, noise: float) -> PrivateBatches:
    return dataclasses.replace(mechanism, noise_multiplier=noise)
