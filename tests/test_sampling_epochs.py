"""Every example once an epoch."""

import itertools
import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from draws import draws, event, inclusions, two_sided

from dpjax.sampling import Deterministic, ShuffledEpochs

BOTH = [Deterministic(), ShuffledEpochs()]


@pytest.mark.parametrize(("num_examples", "batch"), [(12, 4), (13, 4), (5, 5), (3, 1)])
def test_each_epoch_is_a_permutation_in_batches_of_fixed_size(num_examples, batch):
    steps = math.ceil(num_examples / batch)
    drawn_steps = draws(ShuffledEpochs(), num_examples, batch, 3 * steps)
    rest = num_examples % batch or batch
    assert [len(d) for d in drawn_steps] == 3 * [*[batch] * (steps - 1), rest]
    for epoch in range(3):
        order = np.concatenate(drawn_steps[epoch * steps : (epoch + 1) * steps])
        np.testing.assert_array_equal(np.sort(order), np.arange(num_examples))


def test_epochs_have_orders_of_their_own():
    orders = draws(ShuffledEpochs(), 50, 50, 10)
    assert len({order.tobytes() for order in orders}) == 10


def test_every_order_is_as_likely_as_any_other():
    orders = draws(ShuffledEpochs(), 4, 4, 4800)
    ranks = {order: i for i, order in enumerate(itertools.permutations(range(4)))}
    counts = np.bincount([ranks[tuple(order)] for order in orders], minlength=24)
    assert two_sided(((counts - 200) ** 2 / 200).sum(), 23) > 1e-3


def test_the_fixed_order_is_that_of_the_data_and_the_same_every_epoch():
    steps = draws(Deterministic(), 10, 4, 6)
    assert [step.tolist() for step in steps] == 2 * [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]


def test_nothing_random_is_in_the_fixed_order():
    keys = [np.array([0, seed], np.uint32) for seed in range(3)]
    seen = [np.concatenate(draws(Deterministic(), 10, 4, 6, key=key)) for key in keys]
    np.testing.assert_array_equal(seen, [seen[0]] * 3)


@pytest.mark.parametrize("sampler", BOTH)
@pytest.mark.parametrize("num_steps", [1, 3, 4, 5, 8, 41])
def test_epochs_spend_one_gaussian_an_epoch_begun(sampler, num_steps):
    # 13 examples in batches of 4: 4 steps an epoch.
    spent = event(sampler, 2.0, 13, 4, num_steps)
    assert spent == dp_accounting.SelfComposedDpEvent(
        dp_accounting.GaussianDpEvent(2.0), math.ceil(num_steps / 4)
    )
    taken = inclusions(sampler, 13, 4, num_steps).sum(axis=0).max()
    assert spent.count == taken


@pytest.mark.parametrize("sampler", BOTH)
def test_epochs_claim_no_amplification_and_zeroing_out_as_relation(sampler):
    assert sampler.sampling_prob(num_examples=100, expected_batch_size=30) is None
    assert sampler.relation is NeighboringRelation.REPLACE_SPECIAL
    assert not sampler.is_poisson
    assert "amplifi" in sampler.statement
