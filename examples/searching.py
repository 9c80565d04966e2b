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
import ctypes
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import data
import flax.serialization
import grouping
import jax
import scattering
import search_flags
import train_flags
from absl import flags
from search_runs import Price, Runs

from dpjax import _files, training
from dpjax.accounting.figures import number_up
from dpjax.mechanism import NotAGuarantee, relation_words
from dpjax.release.search import SearchResult, private_search
from dpjax.training import fingerprint, folder

SEARCH, PARAMS = "search.json", "params.msgpack"


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
        _write(run_dir / PARAMS, params)
        _write(run_dir / SEARCH, _files.encode(record, indent=2))
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
    unit = grouping.unit(runs.flag_values["unit_size"].value)
    record = {
        "candidate": found.candidate,
        "score": found.score,
        "test_accuracy": found.output.test_accuracy,
        "test_examples": {"of_score": chosen_by, "of_test_accuracy": other},
        "epsilon": price.epsilon,
        "delta": price.delta,
        "neighboring_relation": relation_words(price.ledger.relation, unit),
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
    streams = {sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__} - {None}
    _flush(streams)
    with open(os.devnull, "w") as nowhere, contextlib.ExitStack() as stack:
        for number in (1, 2):
            before = os.dup(number)
            stack.callback(os.close, before)
            stack.callback(os.dup2, before, number)
            os.dup2(nowhere.fileno(), number)
        stack.callback(_flush, streams)
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def _flush(streams: Iterable[Any]) -> None:
    """Write out what is in the buffers of streams, and in those of C."""
    for stream in streams:
        stream.flush()
    ctypes.CDLL(None).fflush(None)


def _write(path: pathlib.Path, content: bytes) -> None:
    """Write a file, and date it and all beside it of the beginning.

    How long it took tells how many runs there were. The file system keeps the time of
    the last change (ctime) beside, which a copy of the folder does not have.
    """
    run_dir = path.parent
    began = (run_dir / folder.LEDGER).stat().st_mtime_ns
    try:
        _files.replace(path, content, time_ns=began)
    finally:
        for each in (*run_dir.iterdir(), run_dir):
            os.utime(each, ns=(began, began))


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
