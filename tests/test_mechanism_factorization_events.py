import itertools

import numpy as np
import pytest

from dpjax import sampling
from dpjax.accounting import AccountingError
from dpjax.mechanism.factorization_events import (
    is_amplified,
    participation_of,
    strategy_sensitivity,
)
from dpjax.noise import correlated, key_data
from dpjax.noise.correlated import Cyclic, MinSeparation, OncePerEpoch

SAMPLERS = [
    (sampling.Deterministic(), 10),
    (sampling.ShuffledEpochs(), 10),
    (sampling.CyclicPoisson(4), 10),
    (sampling.BMinSep(4), 10),
]


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (sampling.Deterministic(), Cyclic(11)),
        (sampling.ShuffledEpochs(), OncePerEpoch(11)),
        (sampling.CyclicPoisson(4), Cyclic(4)),
        (sampling.BMinSep(4), MinSeparation(4)),
    ],
    ids=str,
)
def test_participation_is_that_of_the_sampler(sampler, expected):
    assert participation_of(sampler, 105, 10) == expected


@pytest.mark.parametrize(("sampler", "batch"), SAMPLERS, ids=str)
def test_no_draw_lets_an_example_take_part_otherwise(sampler, batch):
    examples, steps = 105, 40
    participation = participation_of(sampler, examples, batch)
    plan = {"num_examples": examples, "expected_batch_size": batch}
    chunks = sampler.batches(
        np.asarray(key_data(5)),
        num_steps=steps,
        chunk_size=sampler.chunk_size(**plan),
        **plan,
    )
    seen = {i: [] for i in range(examples)}
    for step, parts in enumerate(chunks):
        for indices, mask in parts:
            for i in indices[mask].tolist():
                seen[i].append(step)
    apart = participation.separation(steps)
    for found in seen.values():
        assert len(found) <= participation.count(steps)
        assert all(b - a >= apart for a, b in itertools.pairwise(found))
        if isinstance(participation, Cyclic):
            assert len({step % participation.period for step in found}) <= 1
        if isinstance(participation, OncePerEpoch):
            assert len({step // participation.period for step in found}) == len(found)


@pytest.mark.parametrize(
    "sampler", [sampling.Poisson(), sampling.TruncatedPoisson(20), sampling.FixedSize()]
)
def test_samplers_that_bound_nothing_are_refused(sampler):
    with pytest.raises(AccountingError, match="DPSGD"):
        participation_of(sampler, 100, 10)


@pytest.mark.parametrize(
    ("sampler", "bands", "expected"),
    [
        (sampling.CyclicPoisson(4), 4, True),
        (sampling.CyclicPoisson(4), 5, False),
        (sampling.Deterministic(), 1, False),
        (sampling.BMinSep(4), 1, False),
    ],
)
def test_sampling_amplifies_what_has_few_bands(sampler, bands, expected):
    assert is_amplified(sampler, correlated.square_root(bands), 20) == expected


def test_where_it_is_amplified_the_sensitivity_is_of_one_participation():
    strategy = correlated.square_root(4)
    one = correlated.sensitivity(strategy, 20, correlated.ONCE)
    assert strategy_sensitivity(strategy, 20, Cyclic(5), True) == one
    whole = strategy_sensitivity(strategy, 20, Cyclic(5), False)
    assert whole.value == pytest.approx(2 * one.value)
