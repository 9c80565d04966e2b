"""Which sampler has a sound account under which neighbouring relation.

| sampler                    | add or remove | contributes nothing | replace         |
| -------------------------- | ------------- | ------------------- | --------------- |
| `Poisson`                  | exact         | exact               | exact           |
| `TruncatedPoisson`         | pld           | pld                 | pld             |
| `CyclicPoisson`            | none          | exact               | exact           |
| `FixedSize`                | exact         | as for replace      | pld, a bound    |
| `FixedSizeWithReplacement` | pld           | as for replace      | pld, a bound    |
| `Deterministic`            | none          | exact               | exact           |
| `ShuffledEpochs`           | none          | a bound             | a bound         |
| `BallsInBins`              | pld           | pld                 | a bound         |
| `RandomAllocation`         | pld, a bound  | pld, a bound        | a bound         |
| `BMinSep`                  | a bound       | a bound             | none            |

"exact" is the accountant of that name, "pld" a grid with an estimate of its error, and
"a bound" is one that no data sets are known to reach.
"""

from typing import NoReturn

from dp_accounting import NeighboringRelation

from dpjax import sampling
from dpjax.accounting import AccountingError

_WORDS = {
    NeighboringRelation.ADD_OR_REMOVE_ONE: "add or remove one {unit}",
    NeighboringRelation.REPLACE_ONE: "replace one {unit}",
    NeighboringRelation.REPLACE_SPECIAL: (
        "replace one {unit} by one that contributes nothing"
    ),
}


def relation_words(relation: NeighboringRelation, unit: str = "example") -> str:
    """Return a relation in words.

    Args:
      relation: one of the three that data sets can have.
      unit: what is added, removed or replaced: a word or a few, without an article.

    >>> relation_words(NeighboringRelation.REPLACE_ONE, "user")
    'replace one user'
    """
    return _WORDS[relation].format(unit=unit)


RELATION_WORDS = {relation: relation_words(relation) for relation in _WORDS}
"""The relations in words, where the unit of privacy is an example."""

_ADD = NeighboringRelation.ADD_OR_REMOVE_ONE
_ZERO = NeighboringRelation.REPLACE_SPECIAL
_REPLACE = NeighboringRelation.REPLACE_ONE

SOUND_PAIRS: dict[tuple[type[sampling.Sampler], NeighboringRelation], float] = {
    (sampling.Poisson, _ADD): 1.0,
    (sampling.Poisson, _ZERO): 1.0,
    (sampling.Poisson, _REPLACE): 2.0,
    (sampling.TruncatedPoisson, _ADD): 2.0,
    (sampling.TruncatedPoisson, _ZERO): 2.0,
    (sampling.TruncatedPoisson, _REPLACE): 2.0,
    (sampling.CyclicPoisson, _ZERO): 1.0,
    (sampling.CyclicPoisson, _REPLACE): 2.0,
    (sampling.FixedSize, _ADD): 2.0,
    (sampling.FixedSize, _ZERO): 2.0,
    (sampling.FixedSize, _REPLACE): 2.0,
    (sampling.FixedSizeWithReplacement, _ADD): 2.0,
    (sampling.FixedSizeWithReplacement, _ZERO): 2.0,
    (sampling.FixedSizeWithReplacement, _REPLACE): 2.0,
    (sampling.Deterministic, _ZERO): 1.0,
    (sampling.Deterministic, _REPLACE): 2.0,
    (sampling.ShuffledEpochs, _ZERO): 1.0,
    (sampling.ShuffledEpochs, _REPLACE): 2.0,
    (sampling.BallsInBins, _ADD): 1.0,
    (sampling.BallsInBins, _ZERO): 1.0,
    (sampling.BallsInBins, _REPLACE): 2.0,
    (sampling.RandomAllocation, _ADD): 1.0,
    (sampling.RandomAllocation, _ZERO): 1.0,
    (sampling.RandomAllocation, _REPLACE): 2.0,
    (sampling.BMinSep, _ADD): 1.0,
    (sampling.BMinSep, _ZERO): 1.0,
}
"""The pairs that have a sound account, with how far the sum moves, in clip norms.

That is when the example is drawn, once. Where the size of a batch is fixed, it has the
place of another then, which may be as far from it as two clip norms. The accountants
know it from the event and the relation: the noise of `Sampler.event` is in clip norms.
"""

_REASONS: dict[type[sampling.Sampler], str] = {
    sampling.CyclicPoisson: "with one example less, others would change their groups",
    sampling.Deterministic: "with one example less, others would change their batches",
    sampling.ShuffledEpochs: "with one example less, others would change their batches",
    sampling.BMinSep: "what two examples' rests tell apart is not known",
}


def check_pair(sampler: sampling.Sampler, relation: NeighboringRelation) -> None:
    """Raise where a sampler has no sound account under a relation.

    Raises:
      AccountingError: with the reason, and the nearest pair that has one.
    """
    if (type(sampler), relation) not in SOUND_PAIRS:
        _refuse(sampler, relation)


def _refuse(sampler: sampling.Sampler, relation: NeighboringRelation) -> NoReturn:
    kind = type(sampler)
    known = [other for other, _ in SOUND_PAIRS]
    if relation not in RELATION_WORDS:
        reason = "there is no such relation"
    else:
        reason = _REASONS.get(kind, "nothing is known of a sampler of one's own")
    nearest = next((base for base in kind.__mro__ if base in known), sampling.Poisson)
    words = RELATION_WORDS[nearest.relation]
    raise AccountingError(
        "Expected a sampler and a neighbouring relation that have a sound account, got "
        f"sampler={sampler!r} and relation={relation!r}: {reason}. The nearest pair "
        f"that has one is {nearest.__name__} with {words!r} "
        f"(relation={nearest.relation})."
    )
