import numpy as np
import pytest
from scipy import optimize
from test_noise_correlated_errors import least_rmse

from dpjax.noise import correlated
from dpjax.noise.correlated import (
    ONCE,
    Cyclic,
    MinSeparation,
    max_error,
    optimization,
    optimize_banded,
    optimize_buffered_toeplitz,
    optimize_toeplitz,
    rmse,
    sensitivity,
    square_root,
    workload,
)

PARTICIPATIONS = [ONCE, Cyclic(10), MinSeparation(10, 3)]
every_participation = pytest.mark.parametrize("participation", PARTICIPATIONS, ids=str)


@every_participation
@pytest.mark.parametrize("error", [rmse, max_error])
@pytest.mark.parametrize("bands", [1, 4, 10, 60])
def test_an_optimal_toeplitz_strategy_is_no_worse_than_its_start(
    bands, error, participation
):
    found = optimize_toeplitz(60, bands, participation, error=error)
    assert len(found.strategy_coefficients) == bands
    assert sensitivity(found, 60, participation).exact
    start = square_root(bands)
    assert error(found, 60, participation) <= error(start, 60, participation)


@every_participation
@pytest.mark.parametrize("error", [rmse, max_error])
def test_more_buffers_are_no_worse_and_reach_what_toeplitz_can(error, participation):
    errors = [
        error(
            optimize_buffered_toeplitz(60, count, participation, error=error),
            60,
            participation,
        )
        for count in (1, 2, 3)
    ]
    assert np.all(np.diff(errors) <= 1e-6 * errors[0])
    best = error(
        optimize_toeplitz(60, 60, participation, error=error), 60, participation
    )
    # Several participations ask for coefficients that end, which buffers do not have.
    slack = 1.001 if participation is ONCE else 1.06
    assert best * (1 - 1e-4) <= errors[-1] <= best * slack


def test_the_max_error_of_two_bands_is_least_where_a_search_finds_it():
    def of_second(c):
        return max_error(correlated.Toeplitz((1.0, c)), 30)

    best = optimize.minimize_scalar(of_second, bounds=(0, 1), method="bounded")
    found = optimize_toeplitz(30, 2, error=max_error)
    assert max_error(found, 30) == pytest.approx(best.fun, rel=1e-6)
    assert found.strategy_coefficients[1] == pytest.approx(best.x, abs=1e-4)


def test_the_square_root_is_optimal_for_the_max_error_of_one_participation():
    # Both factors are equal: no Toeplitz strategy of any coefficients does better.
    found = max_error(optimize_toeplitz(40, 40, error=max_error), 40)
    assert found == pytest.approx(max_error(square_root(40), 40), rel=1e-6)


def test_the_best_strategy_of_two_steps_is_the_known_one():
    # Columns (cos a, sin a) and (0, 1): 2 rmse^2 = ||A C^{-1}||^2 has the derivative
    # zero where a search over one angle puts it.
    def error(angle):
        matrix = np.array([[np.cos(angle), 0], [np.sin(angle), 1]])
        return np.linalg.norm(np.tri(2) @ np.linalg.inv(matrix)) / np.sqrt(2)

    best = optimize.minimize_scalar(error, bounds=(0, 1.5), method="bounded")
    assert rmse(optimize_banded(2, 2), 2) == pytest.approx(best.fun, rel=1e-7)


@pytest.mark.parametrize("steps", [4, 32])
def test_the_best_strategy_of_all_is_near_to_the_nuclear_norm(steps):
    found = rmse(optimize_banded(steps, steps), steps)
    assert least_rmse(steps) <= found <= 1.04 * least_rmse(steps)


@pytest.mark.parametrize("participation", [ONCE, Cyclic(6), MinSeparation(6)], ids=str)
@pytest.mark.parametrize("bands", [1, 3, 6])
def test_other_weights_at_every_step_are_no_worse_than_the_same(bands, participation):
    found = rmse(optimize_banded(24, bands, participation), 24, participation)
    same = rmse(optimize_toeplitz(24, bands, participation), 24, participation)
    assert found <= same * (1 + 1e-9)
    assert (found < same * 0.999) == (bands > 1)


def test_a_workload_with_momentum_has_a_strategy_of_its_own():
    column = workload(50, momentum=0.9)
    for optimize_strategy in (optimize_toeplitz, optimize_buffered_toeplitz):
        own = optimize_strategy(50, 4, workload=column)
        plain = optimize_strategy(50, 4)
        of_own, of_plain = (rmse(s, 50, workload=column) for s in (own, plain))
        assert of_own < of_plain * 0.99


def test_bands_wider_than_the_separation_are_refused_where_they_would_add_up():
    with pytest.raises(ValueError, match="bands=7"):
        optimize_banded(24, 7, Cyclic(6))


@pytest.mark.parametrize("sizes", [(0, 1), (5, 0), (5, 6)])
def test_sizes_out_of_range_are_refused(sizes):
    for optimize_strategy in (optimize_toeplitz, optimize_banded):
        with pytest.raises(ValueError, match=r"num_steps|bands"):
            optimize_strategy(*sizes)


def test_gradients_of_buffers_are_those_of_their_coefficients():
    point = np.random.default_rng(0).normal(size=6)
    weights = np.random.default_rng(1).normal(size=12)
    _, pull_back = optimization._buffered(point, 12)
    numeric = optimize.approx_fprime(
        point, lambda x: weights @ optimization._buffered(x, 12)[0], 1e-7
    )
    np.testing.assert_allclose(pull_back(weights), numeric, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "bands"), [(100, 10), (300, 300)])
def test_toeplitz_errors_are_those_of_jax_privacy(steps, bands):
    theirs = pytest.importorskip("jax_privacy").matrix_factorization.toeplitz
    coefficients = np.array(theirs.optimize_banded_toeplitz(steps, bands), np.float64)
    expected = rmse(correlated.Toeplitz(tuple(coefficients)), steps)
    assert rmse(optimize_toeplitz(steps, bands), steps) <= expected * 1.0001


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "bands"), [(64, 8), (64, 64)])
def test_banded_errors_are_those_of_jax_privacy(steps, bands):
    theirs = pytest.importorskip("jax_privacy").matrix_factorization.dense
    matrix = np.array(theirs.optimize(steps, bands=bands, equal_norm=True), np.float64)
    factor = np.tri(steps) @ np.linalg.inv(matrix)
    scale = np.linalg.norm(matrix, axis=0).max() / np.sqrt(steps)
    expected = np.linalg.norm(factor) * scale
    found = rmse(optimize_banded(steps, bands), steps)
    assert expected * 0.99 <= found <= expected * 1.001


@pytest.mark.slow
@pytest.mark.parametrize("participation", [ONCE, MinSeparation(50, 4)], ids=str)
def test_buffered_errors_are_those_of_jax_privacy(participation):
    theirs = pytest.importorskip("jax_privacy").matrix_factorization.buffered_toeplitz
    blt = theirs.optimize(
        n=200,
        min_sep=participation.separation(200),
        max_participations=participation.count(200),
        error="max",
        min_buffers=2,
        max_buffers=2,
    )
    # Their decays may be too close to one for float32: their coefficients are not.
    decays, scales = np.array(blt.buf_decay), np.array(blt.output_scale)
    coefficients = np.append(1.0, scales @ decays[:, None] ** np.arange(199))
    strategy = correlated.Toeplitz(tuple(coefficients))
    expected = max_error(strategy, 200, participation)
    ours = optimize_buffered_toeplitz(200, 2, participation, error=max_error)
    assert max_error(ours, 200, participation) <= expected * 1.001
