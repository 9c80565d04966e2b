import itertools

import numpy as np
import pytest
from correlated_cases import STRATEGIES, banded
from test_noise_correlated_participation import patterns

from dpjax.noise import correlated
from dpjax.noise.correlated import (
    ONCE,
    Cyclic,
    MinSeparation,
    OncePerEpoch,
    sensitivity,
    separate_sensitivity,
)

PARTICIPATIONS = [
    ONCE,
    *map(Cyclic, (1, 2, 3, 4, 9)),
    *map(OncePerEpoch, (1, 2, 3, 9)),
    *(MinSeparation(b, k) for b in (1, 2, 3, 4) for k in (2, 3, None)),
]
every_participation = pytest.mark.parametrize("participation", PARTICIPATIONS, ids=str)


def brute_force(matrix, participation):
    """Return the largest norm of a sum of signed columns, over all patterns."""
    best = 0.0
    for pattern in patterns(participation, matrix.shape[1]):
        signs = np.array(list(itertools.product([1, -1], repeat=len(pattern))))
        best = max(best, np.linalg.norm(signs @ matrix[:, pattern].T, axis=1).max())
    return best


def of_vectors(matrix, participation, generator):
    """Return the largest norm of what random vectors of norm one contribute."""
    best = 0.0
    for pattern in patterns(participation, matrix.shape[1]):
        rows = generator.normal(size=(20, len(pattern), 3))
        rows /= np.linalg.norm(rows, axis=2, keepdims=True)
        moved = np.einsum("ij,rjd->rid", matrix[:, pattern], rows)
        best = max(best, np.linalg.norm(moved, axis=(1, 2)).max())
    return best


@every_participation
@pytest.mark.parametrize("steps", [1, 5, 7])
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_no_example_moves_the_sums_by_more(strategy, steps, participation):
    matrix = strategy.matrix(steps)
    value, exact = sensitivity(strategy, steps, participation)
    worst = brute_force(matrix, participation)
    assert value >= worst * (1 - 1e-12)
    generator = np.random.default_rng(0)
    assert value >= of_vectors(matrix, participation, generator) * (1 - 1e-12)
    if exact:
        assert value == pytest.approx(worst, rel=1e-12)


@pytest.mark.parametrize(
    "participation",
    [p for p in PARTICIPATIONS if not isinstance(p, OncePerEpoch)],
    ids=str,
)
@pytest.mark.parametrize(
    "name", ["identity", "banded Toeplitz", "square root", "banded inverse", "buffered"]
)
def test_falling_toeplitz_strategies_are_known_exactly(name, participation):
    assert sensitivity(STRATEGIES[name], 7, participation).exact


@pytest.mark.parametrize("name", ["banded", "signed banded", "signed Toeplitz"])
def test_few_bands_are_known_exactly(name):
    strategy = STRATEGIES[name]
    bands = strategy.bands(13)
    for participation in (ONCE, Cyclic(bands), MinSeparation(bands, 2)):
        assert sensitivity(strategy, 13, participation).exact


@pytest.mark.parametrize("name", ["banded", "signed banded", "signed Toeplitz"])
def test_each_participation_by_itself_moves_the_norm_of_a_column(name):
    strategy = STRATEGIES[name]
    norms = np.linalg.norm(strategy.matrix(13), axis=0)
    bands = strategy.bands(13)
    assert separate_sensitivity(strategy, 13, bands) == pytest.approx(norms.max())
    with pytest.raises(ValueError, match=f"strategy.bands={bands}"):
        separate_sensitivity(strategy, 13, bands - 1)


def test_a_shuffled_order_moves_more_than_a_fixed_one_and_less_than_any_order():
    strategy = STRATEGIES["square root"]
    values = [
        sensitivity(strategy, 13, participation).value
        for participation in (Cyclic(4), OncePerEpoch(4), MinSeparation(1, 4))
    ]
    assert values == sorted(values)
    assert len(set(values)) == 3


def test_the_tree_is_known_exactly_where_participation_is_cyclic_or_dyadic():
    tree = STRATEGIES["tree"]
    for participation in (ONCE, Cyclic(3), MinSeparation(4)):
        assert sensitivity(tree, 16, participation).exact


def test_single_participation_in_a_tree_is_the_root_of_its_height():
    value, _ = sensitivity(STRATEGIES["tree"], 1024, ONCE)
    assert value == pytest.approx(np.sqrt(11))


def test_a_signed_strategy_that_is_not_known_exactly_says_so():
    assert not sensitivity(STRATEGIES["signed banded"], 13, Cyclic(2)).exact


def test_a_long_horizon_takes_no_matrix():
    for strategy in (correlated.square_root(50_000), correlated.BinaryTree()):
        assert sensitivity(strategy, 50_000, Cyclic(1000)).value > 7


def test_a_matrix_that_would_be_too_large_is_refused():
    rising = correlated.Toeplitz((0.5, 0.75))
    with pytest.raises(ValueError, match="num_steps=9000"):
        sensitivity(rising, 9000, Cyclic(1))


def test_what_is_no_participation_is_refused():
    with pytest.raises(TypeError, match="participation"):
        sensitivity(banded(), 5, 3)
