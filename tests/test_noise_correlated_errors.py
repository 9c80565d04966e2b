import math

import numpy as np
import pytest
from correlated_cases import STEPS, STRATEGIES

from dpjax.noise import correlated
from dpjax.noise.correlated import ONCE, Cyclic, max_error, rmse, sensitivity


def least_rmse(steps):
    """Return the nuclear norm of prefix sums over n, below the error of any factors."""
    j = np.arange(1, steps + 1)
    values = 1 / (2 * np.sin((2 * j - 1) * np.pi / (2 * (2 * steps + 1))))
    return values.sum() / steps


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
@pytest.mark.parametrize("participation", [ONCE, Cyclic(4)], ids=str)
def test_errors_are_norms_of_the_factors(strategy, participation):
    factor = np.tri(STEPS) @ strategy.noise_matrix(STEPS)
    scale = sensitivity(strategy, STEPS, participation).value
    found = rmse(strategy, STEPS, participation)
    assert found == pytest.approx(scale * np.linalg.norm(factor) / math.sqrt(STEPS))
    worst = scale * np.linalg.norm(factor, axis=1).max()
    assert max_error(strategy, STEPS, participation) == pytest.approx(worst)


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_no_strategy_has_less_error_than_the_nuclear_norm_allows(strategy):
    assert rmse(strategy, STEPS) >= least_rmse(STEPS)


def test_independent_noise_has_the_error_of_a_random_walk():
    assert max_error(correlated.Identity(), 100) == pytest.approx(10)
    expected = math.sqrt(np.mean(np.arange(1, 101)))
    assert rmse(correlated.Identity(), 100) == pytest.approx(expected)


@pytest.mark.parametrize("steps", [100, 3000])
def test_the_square_root_has_the_error_that_its_authors_state(steps):
    # Fichtenberger et al. 2023, theorem 1: at most 1 + (ln(4n/5) + gamma) / pi; and by
    # the asymptotics of its norm (ln n + gamma + 4 ln 2) / pi.
    worst = max_error(correlated.square_root(steps), steps)
    assert worst <= 1 + (math.log(4 * steps / 5) + np.euler_gamma) / math.pi
    expected = (math.log(steps) + np.euler_gamma + 4 * math.log(2)) / math.pi
    assert worst == pytest.approx(expected, abs=1 / steps)


def test_the_error_of_a_tree_grows_as_the_logarithm():
    # Two estimates in three are of variance near 1/2, half of the levels are in use.
    worst = max_error(correlated.BinaryTree(), 1024)
    assert math.sqrt(11 * 10 / 2) < worst < math.sqrt(11 * 11)


def test_the_square_root_beats_the_tree_which_beats_independent_noise():
    errors = [
        rmse(strategy, 1024)
        for strategy in (
            correlated.square_root(1024),
            correlated.BinaryTree(),
            correlated.Identity(),
        )
    ]
    assert errors == sorted(errors)


def test_a_workload_with_momentum_is_best_served_by_its_own_root():
    column = correlated.workload(200, momentum=0.9)
    own, plain = (
        rmse(correlated.square_root(200, momentum=m), 200, workload=column)
        for m in (0.9, 0.0)
    )
    assert own < plain


@pytest.mark.slow
@pytest.mark.parametrize("steps", [20, 100])
@pytest.mark.parametrize("separation", [5, 10])
def test_errors_agree_with_jax_privacy(steps, separation):
    theirs = pytest.importorskip("jax_privacy").matrix_factorization.toeplitz
    strategy = correlated.square_root(steps)
    coefficients = np.array(strategy.strategy_coefficients)
    variances = theirs.per_query_error(strategy_coef=coefficients)
    squared = theirs.minsep_sensitivity_squared(coefficients, min_sep=separation)
    participation = correlated.MinSeparation(separation)
    found = sensitivity(strategy, steps, participation)
    assert found.value**2 == pytest.approx(float(squared), rel=1e-5)
    expected = math.sqrt(float(squared) * float(np.mean(variances)))
    assert rmse(strategy, steps, participation) == pytest.approx(expected, rel=1e-5)
