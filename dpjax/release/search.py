"""Private hyper-parameter search: keep the best of a random number of private runs."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dpjax import _check, noise
from dpjax.accounting.events import Event
from dpjax.accounting.selection import Repetitions
from dpjax.noise import coins
from dpjax.noise.entropy import KeyedSource, Source
from dpjax.types import KeyLike

_LEVEL_BITS = 53


@dataclasses.dataclass(frozen=True, eq=False)
class SearchResult:
    """The best run of a private search: all that may be released of it.

    How many runs there were, and how the others went, is private, and not here.

    Attributes:
      candidate: what the best run was of; None where a Poisson law drew no run.
      score: the best score; minus infinity where there was none.
      output: what the best run returned, such as trained parameters.
      event: of the whole search, to spend in a ledger: a `RepeatAndSelectDpEvent`.
    """

    candidate: Any
    score: float
    output: Any
    event: Event


def private_search(
    train_fn: Callable[[Any, jax.Array], tuple[Any, Any]],
    candidates: Sequence[Any],
    *,
    event: Event,
    distribution: Repetitions,
    key: KeyLike | None = None,
) -> SearchResult:
    """Run private training a random number of times, and return the best run alone.

    Each run takes a candidate at random, with replacement. A run whose score is NaN is
    worse than all others; of equal scores the first is kept.

    Args:
      train_fn: `train_fn(candidate, key) -> (score, output)`: one private run. All its
        randomness must come from `key`, key words of the run's own. The larger score is
        better. A score must not look at private data beyond what `event` covers: take
        it from public data, from the private output alone, or add noise to it
        (`private_mean`) and compose that with the training in `event`.
      candidates: settings to choose from: public, listed without a look at the data.
      event: what one run releases, output and score together, whatever the candidate:
        where candidates cost differently, an event that covers the dearest.
      distribution: the law of the number of runs.
      key: PRNG key, key data or an integer seed; `None` takes a fresh one. Keep it
        secret: it tells how many runs there were.

    Returns:
      The best run, with the event of the whole search. Spend that before the search:
      it is `distribution.event(event)`.

    Raises:
      ValueError: no candidates, or a score that is no number.
      TypeError: arguments of the wrong kind.

    Guarantee:
      Where every run is covered by `event`, what is returned is covered by `.event`
      (`selection_epsilon`), under the neighbouring relation of `event`: the runs are
      draws of one mechanism, "take a candidate at random and train", and the number of
      them does not depend on the data. That rests on nothing else getting out: no log
      of the other runs, not their number, and not how long the search took.

    References:
      Papernot and Steinke (2022), Hyperparameter tuning with Renyi differential
      privacy, arXiv 2110.03620; Liu and Talwar (2019), Private selection from private
      candidates, arXiv 1811.07971.

    >>> import dp_accounting
    >>> found = private_search(lambda rate, key: (-abs(rate - 3), "params"), [1, 2, 3],
    ...     event=dp_accounting.GaussianDpEvent(2.0),
    ...     distribution=Repetitions(mean=20.0), key=0)
    >>> found.candidate, found.score, found.event.mean
    (3, 0.0, 20.0)
    """
    if not isinstance(distribution, Repetitions):
        kind = type(distribution).__name__
        _check.fail("Repetitions", "type(distribution)", kind, TypeError)
    if not len(candidates):
        _check.fail("at least one candidate", "candidates", candidates)
    whole = distribution.event(event)
    words = noise.key_data(key)
    source = KeyedSource(b"dpjax.release.search\0" + np.asarray(words).tobytes())
    best = SearchResult(None, -math.inf, None, whole)
    for number in range(distribution.quantile(_level(source))):
        choice = int(coins.uniform(source, len(candidates), 1)[0])
        own = noise.step_key(words, "dpjax.release.search", number)
        score, output = train_fn(candidates[choice], jax.random.key_data(own))
        score = _comparable(score)
        if number == 0 or score > best.score:
            best = SearchResult(candidates[choice], score, output, whole)
    return best


def _level(source: Source) -> float:
    """Return a uniform number inside of (0, 1): the middle of one of 2^52 cells."""
    cell = int(coins.uniform(source, 2 ** (_LEVEL_BITS - 1), 1)[0])
    return (2 * cell + 1) * 2.0**-_LEVEL_BITS


def _comparable(score: Any) -> float:
    """Return a score as a float; NaN is the worst of all."""
    if np.ndim(score):
        _check.fail("a scalar score", "score.shape", np.shape(score))
    try:
        number = float(score)
    except (TypeError, ValueError):
        _check.fail("a score that is a number", "score", score, TypeError)
    return -math.inf if math.isnan(number) else number
