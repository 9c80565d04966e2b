import math

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dpjax import accounting
from dpjax.accounting.selection import Repetitions
from dpjax.release.search import private_search

EVENT = dp_accounting.GaussianDpEvent(2.0)


class Runs:
    """A train_fn that remembers what it was asked for."""

    def __init__(self, scores=lambda candidate, number: candidate):
        self.scores, self.asked = scores, []

    def __call__(self, candidate, key):
        self.asked.append((candidate, tuple(np.asarray(key).tolist())))
        return self.scores(candidate, len(self.asked) - 1), f"run {len(self.asked)}"


def search(runs, candidates=(1, 2, 3), mean=20.0, shape=1.0, key=0):
    return private_search(
        runs, candidates, event=EVENT, distribution=Repetitions(mean, shape), key=key
    )


@pytest.mark.parametrize("key", range(5))
def test_the_best_run_is_returned_and_nothing_of_the_others(key):
    runs = Runs(lambda candidate, number: math.sin(number) + candidate)
    found = search(runs, key=key)
    scores = [math.sin(i) + candidate for i, (candidate, _) in enumerate(runs.asked)]
    best = int(np.argmax(scores))
    assert found.score == scores[best]
    assert found.candidate == runs.asked[best][0]
    assert found.output == f"run {best + 1}"
    assert set(vars(found)) == {"candidate", "score", "output", "event"}


@pytest.mark.parametrize("shape", [0.0, 1.0, math.inf])
def test_the_number_of_runs_has_the_law_that_is_accounted_for(shape):
    counts = []
    for key in range(400):
        runs = Runs()
        search(runs, mean=4.0, shape=shape, key=key)
        counts.append(len(runs.asked))
    law = Repetitions(4.0, shape)
    numbers = np.arange(0 if shape == math.inf else 1, 8)
    masses = np.exp(law.log_mass(numbers))
    observed = [np.sum(np.array(counts) == k) for k in numbers]
    observed.append(400 - sum(observed))
    expected = 400 * np.append(masses, 1 - masses.sum())
    assert stats.chisquare(observed, expected).pvalue > 1e-3
    wrong = 400 * np.exp(Repetitions(8.0, shape).log_mass(numbers))
    wrong = np.append(wrong, 400 - wrong.sum())
    assert stats.chisquare(observed, wrong).pvalue < 1e-4


def test_candidates_are_drawn_uniformly_and_every_run_has_a_key_of_its_own():
    runs = Runs()
    for key in range(100):
        search(runs, key=key)
    candidates, keys = zip(*runs.asked, strict=True)
    assert stats.chisquare(np.bincount(candidates)[1:]).pvalue > 1e-3
    assert len(set(keys)) == len(keys)


def test_a_key_repeats_a_search_and_none_is_fresh():
    one, same, other = Runs(), Runs(), Runs()
    search(one, key=jax.random.key(5))
    search(same, key=5)
    search(other, key=None)
    assert one.asked == same.asked != other.asked
    assert np.asarray(one.asked[0][1]).shape == (2,)


def test_a_run_that_failed_is_worse_than_all_others():
    runs = Runs(lambda _, number: jnp.nan if number % 2 == 0 else -5.0)
    assert search(runs, mean=30.0).score == -5.0
    all_failed = search(Runs(lambda *_: math.nan))
    assert all_failed.score == -math.inf
    assert all_failed.output == "run 1"


def test_of_equal_scores_the_first_run_is_kept():
    assert search(Runs(lambda *_: np.float32(0.5))).output == "run 1"


def test_a_poisson_law_may_draw_no_run_at_all():
    found = [search(Runs(), mean=1.0, shape=math.inf, key=key) for key in range(40)]
    empty = [result for result in found if result.candidate is None]
    assert 0 < len(empty) < 40
    assert all(result.output is None for result in empty)
    assert all(result.score == -math.inf for result in empty)


def test_the_event_is_that_of_the_whole_search_and_a_ledger_takes_it():
    found = search(Runs())
    assert found.event == Repetitions(20.0, 1.0).event(EVENT)
    ledger = accounting.PrivacyLedger()
    ledger.spend(found.event, "search")
    assert ledger.entries[0].event == found.event


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"candidates": []}, ValueError, "at least one candidate"),
        ({"distribution": 10}, TypeError, "Repetitions"),
        ({"event": None}, TypeError, "DpEvent"),
        ({"train_fn": lambda *_: (np.ones(2), 0)}, ValueError, "scalar score"),
        ({"train_fn": lambda *_: ("good", 0)}, TypeError, "score"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused(options, error, message):
    settings = {
        "train_fn": Runs(),
        "candidates": [1],
        "event": EVENT,
        "distribution": Repetitions(5.0),
        "key": 0,
    }
    settings |= options
    with pytest.raises(error, match=message):
        private_search(settings.pop("train_fn"), settings.pop("candidates"), **settings)
