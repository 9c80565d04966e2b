"""Which sampler has a sound account under which neighbouring relation."""

import dataclasses

import pytest
from dp_accounting import NeighboringRelation

from dpjax import accounting, sampling
from dpjax.mechanism import DPSGD, RELATION_WORDS, SOUND_PAIRS, relation_words
from dpjax.mechanism.relations import check_pair

ADD = NeighboringRelation.ADD_OR_REMOVE_ONE
ZERO = NeighboringRelation.REPLACE_SPECIAL
REPLACE = NeighboringRelation.REPLACE_ONE

PLAN = DPSGD(
    num_examples=1000,
    expected_batch_size=20,
    num_steps=150,
    l2_norm_clip=1.0,
    noise_multiplier=1.0,
)
SAMPLERS = [
    sampling.Poisson(),
    sampling.TruncatedPoisson(30),
    sampling.CyclicPoisson(5),
    sampling.FixedSize(),
    sampling.FixedSizeWithReplacement(),
    sampling.Deterministic(),
    sampling.ShuffledEpochs(),
    sampling.BallsInBins(),
    sampling.RandomAllocation(2),
    sampling.BMinSep(5),
]

MUST_GIVE_A_NUMBER = {
    (sampling.Poisson, ADD): 1.0,
    (sampling.Poisson, ZERO): 1.0,
    (sampling.Poisson, REPLACE): 2.0,
    (sampling.TruncatedPoisson, ADD): 2.0,
    (sampling.TruncatedPoisson, ZERO): 2.0,
    (sampling.TruncatedPoisson, REPLACE): 2.0,
    (sampling.CyclicPoisson, ZERO): 1.0,
    (sampling.CyclicPoisson, REPLACE): 2.0,
    (sampling.FixedSize, ADD): 2.0,
    (sampling.FixedSize, ZERO): 2.0,
    (sampling.FixedSize, REPLACE): 2.0,
    (sampling.FixedSizeWithReplacement, ADD): 2.0,
    (sampling.FixedSizeWithReplacement, ZERO): 2.0,
    (sampling.FixedSizeWithReplacement, REPLACE): 2.0,
    (sampling.Deterministic, ZERO): 1.0,
    (sampling.Deterministic, REPLACE): 2.0,
    (sampling.ShuffledEpochs, ZERO): 1.0,
    (sampling.ShuffledEpochs, REPLACE): 2.0,
    (sampling.BallsInBins, ADD): 1.0,
    (sampling.BallsInBins, ZERO): 1.0,
    (sampling.BallsInBins, REPLACE): 2.0,
    (sampling.RandomAllocation, ADD): 1.0,
    (sampling.RandomAllocation, ZERO): 1.0,
    (sampling.RandomAllocation, REPLACE): 2.0,
    (sampling.BMinSep, ADD): 1.0,
    (sampling.BMinSep, ZERO): 1.0,
}
MUST_RAISE = {
    (sampling.CyclicPoisson, ADD): "others would change their groups",
    (sampling.Deterministic, ADD): "others would change their batches",
    (sampling.ShuffledEpochs, ADD): "others would change their batches",
    (sampling.BMinSep, REPLACE): "what two examples' rests tell apart is not known",
}

PAIRS = [(sampler, relation) for sampler in SAMPLERS for relation in RELATION_WORDS]


def plan(sampler, relation):
    return dataclasses.replace(PLAN, sampler=sampler, relation=relation)


def test_these_pairs_and_no_others_have_a_sound_account():
    assert SOUND_PAIRS == MUST_GIVE_A_NUMBER
    pairs = {(type(sampler), relation) for sampler, relation in PAIRS}
    assert pairs == MUST_GIVE_A_NUMBER.keys() | MUST_RAISE.keys()
    assert not MUST_GIVE_A_NUMBER.keys() & MUST_RAISE.keys()


@pytest.mark.parametrize("accountant", ["exact", "pld", "rdp"])
@pytest.mark.parametrize(("sampler", "relation"), PAIRS, ids=repr)
def test_every_sound_pair_gives_a_number_and_every_other_one_raises(
    sampler, relation, accountant
):
    if (type(sampler), relation) in MUST_GIVE_A_NUMBER:
        made = plan(sampler, relation)
        spent = made.epsilon(1e-5, accountant=accountant)
        assert 0 < spent < float("inf")
        assert spent >= made.epsilon(1e-5) * (1 - 1e-9)
    else:
        reason = MUST_RAISE[type(sampler), relation]
        with pytest.raises(accounting.AccountingError, match=reason):
            plan(sampler, relation)


SAFE_TO_REPLACE = [one for one in SAMPLERS if (type(one), REPLACE) not in MUST_RAISE]


@pytest.mark.parametrize("sampler", SAFE_TO_REPLACE, ids=repr)
def test_replacing_costs_at_least_as_much_as_zeroing_out(sampler):
    zeroed, replaced = (plan(sampler, other).epsilon(1e-5) for other in (ZERO, REPLACE))
    assert zeroed <= replaced * (1 + 1e-9)


@pytest.mark.parametrize("relation", [ZERO, REPLACE])
def test_samplers_come_in_the_order_of_what_they_cost(relation):
    order = [
        sampling.Poisson(),
        sampling.TruncatedPoisson(30),
        sampling.FixedSize(),
        sampling.FixedSizeWithReplacement(),
    ]
    epsilons = [plan(sampler, relation).epsilon(1e-5) for sampler in order]
    assert epsilons == sorted(epsilons)
    assert len(set(epsilons)) == 4


@pytest.mark.parametrize("relation", [ZERO, REPLACE])
def test_groups_that_take_turns_cost_what_poisson_sampling_of_one_costs(relation):
    cyclic = plan(sampling.CyclicPoisson(5), relation)
    one_group = dataclasses.replace(
        PLAN, num_examples=200, num_steps=30, relation=relation
    )
    assert cyclic.epsilon(1e-5) == one_group.epsilon(1e-5)


def test_balls_in_bins_cost_less_than_a_shuffle_and_than_poisson_samples():
    bins, shuffled, poisson = (
        plan(sampler, ZERO).epsilon(1e-5)
        for sampler in (
            sampling.BallsInBins(),
            sampling.ShuffledEpochs(),
            sampling.Poisson(),
        )
    )
    assert bins < poisson < shuffled


def test_one_group_alone_is_poisson_sampling():
    for relation in (ZERO, REPLACE):
        assert plan(sampling.CyclicPoisson(1), relation).event() == PLAN.event()


@pytest.mark.parametrize("sampler", [sampling.Deterministic, sampling.ShuffledEpochs])
def test_the_error_names_the_nearest_pair_that_has_an_account(sampler):
    with pytest.raises(accounting.AccountingError) as caught:
        check_pair(sampler(), ADD)
    assert f"nearest pair that has one is {sampler.__name__}" in str(caught.value)
    assert "replace one example by one that contributes nothing" in str(caught.value)
    assert "REPLACE_SPECIAL" in str(caught.value)


class Every(sampling.Poisson):
    """A sampler of the user's own, of which nothing is known."""


@pytest.mark.parametrize("relation", RELATION_WORDS)
def test_a_sampler_of_ones_own_has_no_account(relation):
    message = "nothing is known of a sampler of one's own.*is Poisson with 'add or"
    with pytest.raises(accounting.AccountingError, match=message):
        check_pair(Every(), relation)


@pytest.mark.parametrize("relation", ["add-or-remove", 1])
def test_what_is_no_relation_is_refused(relation):
    with pytest.raises(accounting.AccountingError, match="there is no such relation"):
        check_pair(sampling.Poisson(), relation)


def test_a_relation_is_told_of_its_unit():
    assert set(RELATION_WORDS) == set(NeighboringRelation)
    for relation, words in RELATION_WORDS.items():
        assert words == relation_words(relation)
        told = relation_words(relation, "owner of up to 4 examples")
        assert told == words.replace("example", "owner of up to 4 examples")
