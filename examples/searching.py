"""A private search for flag values: the best of a secret number of training runs.

Each run takes one of the candidates at random and trains as train.py does without a
search. Only the best is seen, by its accuracy on one half of the public test set; the
other half, which chose nothing, measures it. What all runs cost together is spent
before the first begins. How many there are is drawn in secret, and neither that nor how
the others went is said or written: the run folder has nothing of theirs, no key, and no
time but that of its beginning. Who watches the process sees how long it takes, and a
cache of compiled programs (JAX_COMPILATION_CACHE_DIR), if there is one, what it tried.

    config.json     what was asked for
    ledger.json     what the search spends; both are there before it begins
    params.msgpack  the parameters: `flax.serialization.msgpack_restore` reads them
    search.json     what was found, and its epsilon; written last

References:
    Papernot, Steinke, "Hyperparameter Tuning with Renyi Differential Privacy", ICLR
        2022, arXiv 2110.03620.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import data
import flax.serialization
import jax
import models
import objectives
import scattering
import search_flags
import train_flags
from absl import flags

from dpjax import _files, accounting, training
from dpjax.accounting.figures import number_up
from dpjax.mechanism import RELATION_WORDS, NotAGuarantee, PrivateBatches
from dpjax.release.search import SearchResult, private_search
from dpjax.training import fingerprint, folder
from dpjax.types import Params

SEARCH, PARAMS = "search.json", "params.msgpack"


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


def search(flag_values: flags.FlagValues, train: Callable[..., Any]) -> dict[str, Any]:
    """Do what the flags say, --search among them; return what search.json holds.

    Args:
        flag_values: Those of train.py, complete and checked.
        train: train.py's `train`.

    Raises:
        FlagError: If there is no run folder, or as `Runs.price`.
        RunFolderError: If the run folder cannot be written, or was used before.
        AccountingError: As `Runs.price`.
    """
    options = training.read_flags(flag_values)
    if options.run_dir is None:
        raise training.FlagError("Expected --run_dir with --search.")
    run_dir = pathlib.Path(options.run_dir)
    key = training.run_key(run_dir, options.seed, resume=False)
    dataset = data.load(flag_values["dataset"].value, flag_values["data_dir"].value)
    if flag_values["features"].value == "scattering":
        dataset = scattering.scatter_dataset(dataset)
    runs = Runs(flag_values, dataset, train)
    price = runs.price()
    if options.progress:
        print(f"data: {dataset.source}", file=sys.stderr)
        print(f"run folder: {run_dir}", file=sys.stderr, flush=True)
    with folder.locked(run_dir):
        _begin(run_dir, flag_values, price)
        found = _found(runs, price, key)
        record = _record(runs, price, found)
        params = flax.serialization.msgpack_serialize(found.output.params)
        _files.replace(run_dir / PARAMS, params)
        _files.replace(run_dir / SEARCH, _files.encode(record, indent=2))
        _forget_times(run_dir)
    if options.progress:
        print(*_lines(record, seeded=options.seed is not None), sep="\n")
    return record


def _begin(run_dir: pathlib.Path, flag_values: flags.FlagValues, price: Price) -> None:
    """Spend the search, and write what it is of; neither is undone."""
    folder.check_free(run_dir)
    price.ledger.save(run_dir / folder.LEDGER)
    candidates = search_flags.candidates(flag_values)
    settings = training.flag_settings(flag_values, train_flags.SETTINGS)
    config = {
        "version": 1,
        "private": True,
        "delta": price.delta,
        "settings": settings | dict.fromkeys(candidates[0]),
        "candidates": candidates,
    }
    _files.replace(run_dir / folder.CONFIG, _files.encode(config, indent=2))


def _found(runs: Runs, price: Price, key: jax.Array) -> SearchResult:
    """Return the best of the runs; nothing else of them is seen."""
    noise = price.one_run.noise_multiplier
    with _silence():
        return private_search(
            lambda candidate, own_key: runs.run(noise, candidate, own_key),
            search_flags.candidates(runs.flag_values),
            event=price.one_run.event(),
            distribution=search_flags.repetitions(runs.flag_values),
            key=key,
        )


def _record(runs: Runs, price: Price, found: SearchResult) -> dict[str, Any]:
    """Return the object of search.json."""
    law = search_flags.repetitions(runs.flag_values)
    alone = NotAGuarantee(
        price.one_run.epsilon(price.delta),
        price.delta,
        "the winning run had been the only one",
    )
    chosen_by, other = (len(half.test_y) for half in runs.halves())
    record = {
        "candidate": found.candidate,
        "score": found.score,
        "test_accuracy": found.output.test_accuracy,
        "test_examples": {"of_score": chosen_by, "of_test_accuracy": other},
        "epsilon": price.epsilon,
        "delta": price.delta,
        "neighboring_relation": RELATION_WORDS[price.ledger.relation],
        "not_a_guarantee": str(alone),
        "runs": {
            "law": "truncated negative binomial",
            "mean": law.mean,
            "shape": law.shape,
        },
        "noise_multiplier": price.one_run.noise_multiplier,
        "sha256": {
            "params": fingerprint.tree_digest(found.output.params),
            "ledger": price.ledger.digest,
        },
    }
    return _files.json_copy(record)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what a block says, in C++ too, from standard output and error."""
    streams = (sys.stdout, sys.stderr)
    for stream in streams:
        stream.flush()
    with open(os.devnull, "w") as nowhere, contextlib.ExitStack() as stack:
        for number in (1, 2):
            before = os.dup(number)
            stack.callback(os.close, before)
            stack.callback(os.dup2, before, number)
            os.dup2(nowhere.fileno(), number)
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def _forget_times(run_dir: pathlib.Path) -> None:
    """Date all files of the beginning: how long it took tells how many runs there were.

    The file system keeps the time of the last change (ctime) beside, which a copy of
    the folder does not have.
    """
    began = (run_dir / folder.LEDGER).stat().st_mtime_ns
    for path in (*run_dir.iterdir(), run_dir):
        os.utime(path, ns=(began, began))


def _lines(record: dict[str, Any], *, seeded: bool) -> Iterator[str]:
    """Yield what is printed at the end."""
    chosen = " ".join(
        f"--{name}={value}" for name, value in record["candidate"].items()
    )
    yield f"best of a secret number of runs ({record['runs']['mean']:g} on average):"
    yield f"{chosen}"
    yield (
        f"test_accuracy: {record['test_accuracy']:.4g} (public data; "
        f"{record['score']:.4g} on the half that chose)"
    )
    epsilon = number_up(float(record["epsilon"]))
    yield f"epsilon: {epsilon} of the whole search at delta {record['delta']:g}"
    yield f"Only for comparison: {record['not_a_guarantee']}."
    yield f"neighbouring relation: {record['neighboring_relation']}"
    yield (
        "Private, not to be told: how many runs there were, how the others went, and "
        "how long it took."
    )
    if seeded:
        yield (
            "The key comes from a seed: whoever guesses it can take the noise away. "
            "Give no seed for a model that is to be released."
        )
