"""Batches of fixed size, drawn anew at every step."""

import math

import dp_accounting
import numpy as np
import pytest
from draws import draws, event, inclusions, two_sided
from scipy import stats

from dpjax.sampling import FixedSize, FixedSizeWithReplacement

BOTH = [FixedSize(), FixedSizeWithReplacement()]


@pytest.mark.parametrize("sampler", BOTH)
@pytest.mark.parametrize(("count", "batch"), [(100, 30), (10, 10), (3, 1), (1, 1)])
def test_every_batch_has_the_same_size(sampler, count, batch):
    assert {len(draw) for draw in draws(sampler, count, batch, 50)} == {batch}


def test_a_batch_of_everybody_is_everybody():
    for draw in draws(FixedSize(), 20, 20, 3):
        np.testing.assert_array_equal(draw, np.arange(20))


def test_examples_come_as_often_as_each_other():
    table = inclusions(FixedSize(), 50, 10, 4000)
    # Pairs have correlation -1 / 49: 49 degrees of freedom, of variance 50 / 49.
    squares = (table.sum(axis=0) - 800) ** 2 / (4000 * 0.2 * 0.8 * 50 / 49)
    assert two_sided(squares.sum(), 49) > 1e-3


def test_two_examples_avoid_each_other_as_those_of_a_fixed_batch_do():
    table = inclusions(FixedSize(), 20, 5, 20_000)
    both = (table[:, 0] * table[:, 1]).mean()
    expected = 5 * 4 / (20 * 19)
    assert abs(both - expected) < 5 * math.sqrt(expected / 20_000)
    assert abs(both - 0.25**2) > 3 * math.sqrt(expected / 20_000)


def test_copies_of_an_example_are_binomial():
    table = inclusions(FixedSizeWithReplacement(), 20, 5, 4000).astype(int)
    observed = np.bincount(table.ravel(), minlength=6)
    expected = stats.binom.pmf(range(6), 5, 1 / 20) * table.size
    observed = np.append(observed[:3], observed[3:].sum())
    expected = np.append(expected[:3], expected[3:].sum())
    # Copies of all examples add up to 5: a little less varied than independent ones.
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_the_probability_is_that_of_coming_at_all():
    sizes = {"num_examples": 20, "expected_batch_size": 5}
    assert FixedSize().sampling_prob(**sizes) == 0.25
    found = FixedSizeWithReplacement().sampling_prob(**sizes)
    assert found == pytest.approx(1 - 0.95**5, rel=1e-12)
    alone = {"num_examples": 1, "expected_batch_size": 1}
    assert FixedSizeWithReplacement().sampling_prob(**alone) == 1.0


def test_events_say_how_batches_are_drawn():
    gaussian = dp_accounting.GaussianDpEvent(1.5)
    assert event(FixedSize(), 1.5, 100, 7, 9) == dp_accounting.SelfComposedDpEvent(
        dp_accounting.SampledWithoutReplacementDpEvent(100, 7, gaussian), 9
    )
    spent = event(FixedSizeWithReplacement(), 1.5, 100, 7, 9)
    assert spent == dp_accounting.SelfComposedDpEvent(
        dp_accounting.SampledWithReplacementDpEvent(100, 7, gaussian), 9
    )


@pytest.mark.parametrize("sampler", BOTH)
def test_the_state_of_an_optimizer_cannot_count_them(sampler):
    assert not sampler.is_poisson
