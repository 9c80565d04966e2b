"""Poisson sampling within groups that take turns."""

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from draws import draws, event, inclusions, two_sided

from dpjax.sampling import CyclicPoisson, Poisson


@pytest.mark.parametrize(("count", "period"), [(100, 4), (101, 4), (10, 10), (9, 2)])
def test_groups_take_turns_and_everybody_has_one(count, period):
    table = inclusions(CyclicPoisson(period), count, count / period / 2, 40 * period)
    for step, row in enumerate(table):
        members = np.flatnonzero(row)
        assert np.all(members % period == step % period)
    assert np.all(table.sum(axis=0) > 0)


def test_whoever_has_a_turn_enters_with_the_stated_probability():
    sampler, steps = CyclicPoisson(4), 8000
    q = sampler.sampling_prob(num_examples=102, expected_batch_size=10)
    assert q == pytest.approx(4 * 10 / 102)
    taken = inclusions(sampler, 102, 10, steps).sum(axis=0)
    turns = steps / 4
    squares = (taken - turns * q) ** 2 / (turns * q * (1 - q))
    assert two_sided(squares.sum(), 102) > 1e-3


def test_a_group_that_is_as_large_as_a_batch_enters_whole():
    for step, draw in enumerate(draws(CyclicPoisson(5), 50, 10, 7)):
        np.testing.assert_array_equal(draw, np.arange(50)[step % 5 :: 5])


@pytest.mark.parametrize(("steps", "turns"), [(0, 0), (1, 1), (4, 1), (5, 2), (41, 11)])
def test_an_example_spends_its_turns_alone(steps, turns):
    spent = event(CyclicPoisson(4), 1.5, 100, 5, steps)
    if not steps:
        assert spent == dp_accounting.NoOpDpEvent()
        return
    step = dp_accounting.PoissonSampledDpEvent(0.2, dp_accounting.GaussianDpEvent(1.5))
    assert spent == dp_accounting.SelfComposedDpEvent(step, turns)
    most = max(len(range(group, steps, 4)) for group in range(4))
    assert most == turns


def test_one_group_is_poisson_sampling():
    assert event(CyclicPoisson(1), 1.0, 100, 5, 9) == event(Poisson(), 1.0, 100, 5, 9)


@pytest.mark.parametrize(("count", "batch"), [(30, 10), (49, 7), (3, 1), (63, 9)])
def test_rounding_refuses_no_period_that_fits(count, batch):
    period = count // batch
    sizes = {"num_examples": count, "expected_batch_size": batch}
    assert CyclicPoisson(period).sampling_prob(**sizes) == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"Expected at most .*, got period="):
        CyclicPoisson(period + 1).sampling_prob(**sizes)


@pytest.mark.parametrize(
    ("period", "error"), [(0, ValueError), (-2, ValueError), (1.5, TypeError)]
)
def test_a_period_is_a_whole_number(period, error):
    with pytest.raises(error, match="period="):
        CyclicPoisson(period)


def test_the_number_of_examples_is_public():
    assert CyclicPoisson(3).relation is NeighboringRelation.REPLACE_SPECIAL


def test_the_mean_size_of_a_batch_is_the_expected_one():
    sizes = [len(draw) for draw in draws(CyclicPoisson(3), 100, 20, 3000)]
    error = math.sqrt(20 / 3000)
    assert np.mean(sizes) == pytest.approx(20, abs=5 * error)
