"""The privacy loss of a release that first says which of several pairs it is of."""

import math

import numpy as np
import pytest

from dpjax.accounting.grids import composition
from dpjax.accounting.grids.grid import Grid
from dpjax.accounting.laws.privacy_loss import SampledGaussian, grid_laws
from dpjax.accounting.laws.revealed import Component, RevealedMixture

INTERVAL, TAIL = 0.01, 1e-12
PAIR = SampledGaussian(0.7, 0.1)
OTHER = SampledGaussian(1.5, 0.3)
SWAPPED = RevealedMixture((Component(1.0, PAIR, True),))
MIXED = RevealedMixture((Component(0.8, PAIR, False), Component(0.2, OTHER, True)))
BOTH = [SWAPPED, MIXED]


def hockey_stick(law, log_scale):
    """Return H of a law on the grid at e^log_scale."""
    losses = INTERVAL * (law.lowest + np.arange(law.masses.size))
    excess = np.maximum(-np.expm1(log_scale - losses), 0.0)
    return float(law.masses @ excess) + law.infinity


def laws(mixture):
    return mixture.grid_laws(INTERVAL, TAIL)


@pytest.mark.parametrize("places", [0, 1, 50, 400])
def test_swapped_roles_cost_the_larger_of_both_at_every_argument(places):
    level = INTERVAL * places
    removed, added = grid_laws(PAIR, INTERVAL, TAIL)
    both, _ = laws(SWAPPED)
    for sign in (1, -1):
        expected = max(hockey_stick(law, sign * level) for law in (removed, added))
        assert hockey_stick(both, sign * level) == pytest.approx(expected, abs=1e-11)


def test_no_single_order_of_the_roles_is_the_worst_at_every_argument():
    removed, added = grid_laws(PAIR, INTERVAL, TAIL)
    assert hockey_stick(removed, 1.0) > hockey_stick(added, 1.0) + 1e-3
    assert hockey_stick(added, -1.0) > hockey_stick(removed, -1.0) + 1e-3


def test_an_adversary_who_swaps_roles_on_the_way_gains_on_one_who_does_not():
    # Two steps: what the first leaves to the second is H at e^(epsilon - loss), and
    # where that is below 1, the second step's roles are swapped.
    removed, added = grid_laws(PAIR, INTERVAL, TAIL)
    losses = INTERVAL * (removed.lowest + np.arange(removed.masses.size))
    first = list(zip(losses, removed.masses, strict=True))

    def two_steps(*choices):
        return removed.infinity + sum(
            mass * max(hockey_stick(law, 1.0 - loss) for law in choices)
            for loss, mass in first
        )

    fixed, adaptive = two_steps(removed), two_steps(removed, added)
    assert adaptive > 1.001 * fixed
    both, _ = laws(SWAPPED)
    bound = both.infinity + sum(
        mass * hockey_stick(both, 1.0 - INTERVAL * (both.lowest + place))
        for place, mass in enumerate(both.masses)
    )
    assert bound >= adaptive


@pytest.mark.parametrize("places", [0, 20, 300])
def test_a_mixture_costs_the_mean_of_its_components(places):
    for side in (0, 1):
        single = [
            laws(RevealedMixture((part._replace(weight=1.0),)))
            for part in MIXED.components
        ]
        expected = sum(
            part.weight * hockey_stick(law[side], INTERVAL * places)
            for part, law in zip(MIXED.components, single, strict=True)
        )
        found = hockey_stick(laws(MIXED)[side], INTERVAL * places)
        assert found == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("mixture", BOTH)
def test_delta_at_epsilon_zero_is_the_distance(mixture):
    for law in laws(mixture):
        assert hockey_stick(law, 0.0) == pytest.approx(mixture.distance, rel=1e-9)


@pytest.mark.parametrize("mixture", BOTH)
def test_laws_have_mass_one_on_both_data_sets(mixture):
    for law in laws(mixture):
        losses = INTERVAL * (law.lowest + np.arange(law.masses.size))
        assert law.masses.sum() + law.infinity == pytest.approx(1, abs=1e-12)
        assert law.masses @ np.exp(-losses) <= 1 + 1e-12


@pytest.mark.parametrize("mixture", BOTH)
def test_nodes_have_the_moments_of_the_laws(mixture):
    for rule, law in zip(mixture.nodes(TAIL), laws(mixture), strict=True):
        losses = INTERVAL * (law.lowest + np.arange(law.masses.size))
        for power in (1, 2):
            found = np.exp(rule.log_weights) @ rule.losses**power
            expected = law.masses @ losses**power
            assert found == pytest.approx(expected, rel=0.02)


def test_the_rarest_components_count_as_an_infinite_loss():
    rare = Component(1e-6, SampledGaussian(0.2, 1.0), False)
    mixture = RevealedMixture((Component(1 - 1e-6, PAIR, False), rare))
    dropped, _ = mixture.grid_laws(INTERVAL, 1e-5)
    assert dropped.infinity >= 1e-6
    kept, _ = mixture.grid_laws(INTERVAL, 1e-7)
    assert kept.infinity < 1e-7
    for places in (0, 100, 1000):
        level = INTERVAL * places
        assert hockey_stick(dropped, level) >= hockey_stick(kept, level) - 1e-15


def test_swapping_what_is_symmetric_changes_nothing():
    plain = SampledGaussian(2.0, 1.0)
    mixture = RevealedMixture((Component(1.0, plain, True),))
    counts, delta = [30], 1e-6
    grids = [Grid.choose([pair], counts, delta) for pair in (plain, mixture)]
    expected, found = (grid.epsilon(grid.laws(), counts, delta) for grid in grids)
    assert found == pytest.approx(expected, rel=1e-6)
    assert mixture.symmetric
    assert not MIXED.symmetric


def test_composition_with_itself_is_above_either_order_of_the_roles():
    counts, delta = [200], 1e-5
    grid = Grid.choose([SWAPPED], counts, delta)
    bound = grid.epsilon(grid.laws(), counts, delta)
    (view,) = grid.windows(counts, delta)
    for law in grid_laws(PAIR, grid.interval, grid.tail):
        single = composition.epsilon(
            [law], counts, view, interval=grid.interval, delta=delta
        )
        assert math.isfinite(single)
        assert bound > single
