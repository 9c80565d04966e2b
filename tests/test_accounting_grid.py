"""The choice of a grid."""

import math

import pytest

from dpjax.accounting.grids import composition
from dpjax.accounting.grids.grid import Grid
from dpjax.accounting.laws.privacy_loss import SampledGaussian


def epsilon_on(grid, counts, delta):
    return grid.epsilon(grid.laws(), counts, delta)


def test_interval_follows_the_scale_of_the_losses():
    # At noise s and q = 1, losses have standard deviation 1 / s.
    small, large = (
        Grid.choose([SampledGaussian(noise, 1.0)], [100], 1e-5).interval
        for noise in (100.0, 0.1)
    )
    assert large / small == pytest.approx(1000, rel=1e-2)


@pytest.mark.parametrize(
    ("noise", "rate", "count"),
    [(0.3, 1e-6, 10**5), (2.0, 1e-3, 10**7), (30.0, 0.01, 10**9), (0.1, 0.5, 10**6)],
)
def test_grid_never_has_more_points_than_memory_allows(noise, rate, count):
    grid = Grid.choose([SampledGaussian(noise, rate)], [count], 1e-7)
    assert max(side[0].masses.size for side in grid.laws()) <= 2**18 + 3
    spans = [view.high - view.low for view in grid.windows([count], 1e-7)]
    assert max(spans) / grid.interval <= 2**20 + 1


def test_adding_is_not_computed_where_removing_surely_costs_more(monkeypatch):
    grid = Grid.choose([SampledGaussian(0.3, 1e-3)], [100], 1e-5)
    laws = grid.laws()
    assert len(laws) == 2
    both = epsilon_on(grid, [100], 1e-5)
    calls = []
    original = composition.epsilon

    def counting(*args, **options):
        calls.append(1)
        return original(*args, **options)

    monkeypatch.setattr(composition, "epsilon", counting)
    assert epsilon_on(grid, [100], 1e-5) == both
    assert len(calls) == 1


def test_both_directions_are_one_where_the_losses_are_symmetric():
    assert len(Grid.choose([SampledGaussian(1.0, 1.0)], [5], 1e-5).laws()) == 1
    assert len(Grid.choose([SampledGaussian(1.0, 0.1, True)], [5], 1e-5).laws()) == 1


def test_a_distance_within_delta_costs_nothing():
    # 100 releases at q = 1e-9 differ with probability at most 1e-7.
    grid = Grid.choose([SampledGaussian(1.0, 1e-9)], [100], 1e-6)
    assert epsilon_on(grid, [100], 1e-6) == 0.0


@pytest.mark.parametrize(
    ("rate", "noise", "delta"), [(5.8e-5, 1.23, 8e-5), (1e-5, 1.0, 1.2e-5)]
)
def test_more_steps_never_cost_less_where_epsilon_is_next_to_nothing(
    rate, noise, delta
):
    pair = SampledGaussian(noise, rate)
    counts = (2, 3, 5, 9, 12, 20, 80)
    grids = [Grid.choose([pair], [count], delta) for count in counts]
    epsilons = [
        grid.epsilon(grid.laws(), [count], delta)
        for grid, count in zip(grids, counts, strict=True)
    ]
    assert epsilons == sorted(epsilons)
    assert epsilons[0] == 0.0
    assert 0 < epsilons[-1] < 1e-3


def test_delta_undoes_epsilon_on_one_grid():
    pair, counts, delta = SampledGaussian(0.6, 1e-5), [20], 1e-7
    grid = Grid.choose([pair], counts, delta)
    laws = grid.laws()
    epsilon = grid.epsilon(laws, counts, delta)
    assert grid.log_delta(laws, counts, epsilon, delta) == pytest.approx(
        math.log(delta), abs=1e-4
    )
