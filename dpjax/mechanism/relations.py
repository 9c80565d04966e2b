"""Which sampler has a sound account under which neighbouring relation."""

from dp_accounting import NeighboringRelation

from dpjax import sampling

RELATION_WORDS = {
    NeighboringRelation.ADD_OR_REMOVE_ONE: "add or remove one example",
    NeighboringRelation.REPLACE_ONE: "replace one example",
    NeighboringRelation.REPLACE_SPECIAL: (
        "replace one example by one that contributes nothing"
    ),
}

SOUND_PAIRS: dict[tuple[type[sampling.Sampler], NeighboringRelation], float] = {
    (sampling.Poisson, NeighboringRelation.ADD_OR_REMOVE_ONE): 1.0,
    (sampling.Poisson, NeighboringRelation.REPLACE_SPECIAL): 1.0,
    (sampling.ShuffledEpochs, NeighboringRelation.REPLACE_SPECIAL): 1.0,
    (sampling.ShuffledEpochs, NeighboringRelation.REPLACE_ONE): 2.0,
}
"""The pairs that have a sound account, with the sensitivity in units of the clip norm.

Fixed batches are not accounted for under add-or-remove-one: with one example more every
later batch would be another one.
"""
